"""The verbs of the command line, a module for each group; everything heavy is imported inside a verb."""
