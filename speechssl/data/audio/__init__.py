"""Audio: bytes become mono float32 at 16 kHz, or a reason why not; every limit on what is read lives here."""
