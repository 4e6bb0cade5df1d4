"""N-gram language models: their text, their estimation, their files."""
