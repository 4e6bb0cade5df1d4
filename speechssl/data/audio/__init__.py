"""Audio: bytes become mono float32 at 16 kHz, or an error with a reason code. Every limit on what is read is here."""
