"""Attacks on what users of a recommender did, one file a method."""
