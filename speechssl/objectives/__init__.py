"""One pretext task a file, all on the same encoder, all with the interface in ``base``."""
