"""A comparison of objectives on equal terms: arms, what they cost, probes of them, and the verb."""
