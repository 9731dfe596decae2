"""Fake users that make a recommender show a few items to more users."""
