"""Defenses that prevent no theft, and tell afterwards whose model a suspect is."""
