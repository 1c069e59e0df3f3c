"""`python -m experiments.score`: see cae_jax/command/score.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cae_jax.command.score", run_name="__main__", alter_sys=True)
