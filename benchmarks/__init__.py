"""Binaries that time the production call and nothing else, run as `python -m benchmarks.NAME`."""
