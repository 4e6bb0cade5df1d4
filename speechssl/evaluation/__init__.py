"""Measuring: word error rate, its uncertainty, discrete units."""
