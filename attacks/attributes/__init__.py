"""Attacks on private attributes of nodes, one file a method."""
