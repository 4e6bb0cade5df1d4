"""What is wrong with a corpus: files, sound, texts, and what is there twice."""
