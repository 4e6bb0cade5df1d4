"""Any folder of audio becomes a manifest: transcripts, layouts, tables, splits."""
