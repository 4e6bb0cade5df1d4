"""Monitoring of a run: metrics, health, validation, profiling."""
