"""Attacks that steal the model itself, one file a method."""
