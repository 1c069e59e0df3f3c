"""The commands of the repository: `python -m experiments.NAME` is `cae-jax`'s of that name."""
