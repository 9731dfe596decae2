"""Defenses of the fairness of a classifier of two classes, one file a method."""
