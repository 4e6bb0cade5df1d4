"""What a model has learned: features of its layers, probes on them, units from them."""
