"""Two augmented views of one utterance, of which one predicts the other."""
