"""Defenses of what leaves the trainer: gradients, one file a method."""
