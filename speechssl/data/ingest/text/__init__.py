"""Text of transcripts: characters, case, tags of corpora, records of tables."""
