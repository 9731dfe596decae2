"""Attacks on membership, one file a method."""
