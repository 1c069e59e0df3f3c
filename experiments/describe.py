"""`python -m experiments.describe`: see cae_jax/command/describe.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cae_jax.command.describe", run_name="__main__", alter_sys=True)
