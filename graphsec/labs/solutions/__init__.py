"""Answers to the exercises, under the names of the labs; nothing here is copied with a lab."""
