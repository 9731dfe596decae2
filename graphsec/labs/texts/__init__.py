"""The labs as percent scripts, such as ``01-posteriors.py``: copied and read, not imported."""
