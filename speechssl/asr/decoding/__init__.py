"""From log-probabilities to words: greedy, beam search, lexicon, language model, hotwords."""
