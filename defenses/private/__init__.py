"""Defenses of what a model was trained on: its edges, its members, its features."""
