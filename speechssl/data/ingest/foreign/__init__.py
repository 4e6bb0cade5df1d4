"""Webdataset tars that others made, as a source of manifests."""
