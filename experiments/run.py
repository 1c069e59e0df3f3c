"""`python -m experiments.run`: see cae_jax/command/run.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cae_jax.command.run", run_name="__main__", alter_sys=True)
