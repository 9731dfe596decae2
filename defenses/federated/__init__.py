"""Recommenders trained by parties that keep their items and interactions to themselves."""
