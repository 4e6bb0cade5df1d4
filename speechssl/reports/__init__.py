"""A run folder becomes one self-contained page, a JSON file and a text table."""
