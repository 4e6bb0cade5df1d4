"""Parts of every page: elements, charts, sound, the head."""
