"""Public corpora: what is known of them, how their archives are fetched, and how their folders are read."""
