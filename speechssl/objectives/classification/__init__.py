"""Which class a whole utterance was made to belong to: a transformation, an order of its segments."""
