"""Attacks on the training graph."""
