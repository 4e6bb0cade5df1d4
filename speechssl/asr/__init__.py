"""Recognition: tokens, connectionist temporal classification, decoding, alignment, transcription."""
