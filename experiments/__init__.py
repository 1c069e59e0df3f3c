"""The experiments: absl binaries, run as `python -m experiments.NAME`."""
