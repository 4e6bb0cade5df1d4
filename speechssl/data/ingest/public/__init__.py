"""Public corpora: facts about them, downloads of their archives, and readers of their folders."""
