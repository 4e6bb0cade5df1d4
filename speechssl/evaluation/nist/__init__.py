"""Transcripts of any system, in the formats of NIST and others, scored as sclite scores them."""
