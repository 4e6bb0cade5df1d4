"""Shards: webdataset tars with a checksummed index, written, read, verified, local or over http."""
