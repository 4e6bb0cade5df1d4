"""Slow references: plain loops and scalars, written from the papers, never from the code they check."""
