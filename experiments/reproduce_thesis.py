"""`python -m experiments.reproduce_thesis`: see cae_jax/command/reproduce_thesis.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cae_jax.command.reproduce_thesis", run_name="__main__", alter_sys=True)
