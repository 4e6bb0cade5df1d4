"""Measuring: word error rate and its uncertainty."""
