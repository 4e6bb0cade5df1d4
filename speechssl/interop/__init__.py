"""Weights in and out of other libraries, each with a maximum-difference check."""
