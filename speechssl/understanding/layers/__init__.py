"""Layers of models beside each other, and beside log-mel, phones and speakers."""
