"""Optimised kernels, each with its reference implementation beside it."""
