"""`python -m experiments.evaluate`: see cae_jax/command/evaluate.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cae_jax.command.evaluate", run_name="__main__", alter_sys=True)
