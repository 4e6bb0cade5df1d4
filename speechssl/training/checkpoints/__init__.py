"""What a run needs to resume exactly: weights, state, and a check of the corpus."""
