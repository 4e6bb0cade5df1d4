"""The encoder on a processor, without padding."""
