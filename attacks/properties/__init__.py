"""Attacks on properties of the graph that was trained on, one file a method."""
