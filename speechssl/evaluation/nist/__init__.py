"""Scores transcripts of any system, in the formats of NIST and others, by the rules of sclite."""
