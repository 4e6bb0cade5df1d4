"""Two systems or more on the same utterances: which is better, by how much, and where."""
