"""The corpus of the demo, spoken by a synthesiser."""
