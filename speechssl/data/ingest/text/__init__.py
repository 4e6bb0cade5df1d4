"""What is written in files of transcripts: characters, case, tags of corpora, records of tables."""
