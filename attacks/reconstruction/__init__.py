"""Attacks that rebuild the graph a model was trained on."""
