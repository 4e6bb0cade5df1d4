"""Fast paths of the processor, each with the plain one beside it."""
