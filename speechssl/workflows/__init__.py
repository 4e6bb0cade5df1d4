"""Workflows over all stages: the pipeline, the demo, sweeps of learning rates, cost estimates."""
