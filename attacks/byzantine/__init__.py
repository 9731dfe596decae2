"""Clients of a federation that send lies in the place of their updates."""
