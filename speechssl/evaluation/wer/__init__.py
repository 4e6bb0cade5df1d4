"""Word error rate: alignment, counts, intervals, and where the errors are."""
