"""Attacks on gradients that leave training, one file a method."""
