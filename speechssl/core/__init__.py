"""What every room rests on: files, and what a process and its machine are. In: nothing of this package but errors."""
