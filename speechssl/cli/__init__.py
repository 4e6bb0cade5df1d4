"""The command line: main.py, and a module for each group of verbs; everything heavy is imported inside a verb."""
