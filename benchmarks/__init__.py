"""Each claim of the documentation as a script: ``python -m benchmarks.NAME`` from the top of a checkout."""
