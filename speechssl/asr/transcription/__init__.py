"""Text and times of recordings of any length: files in, word files out."""
