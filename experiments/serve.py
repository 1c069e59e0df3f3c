"""`python -m experiments.serve`: see cae_jax/command/serve.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cae_jax.command.serve", run_name="__main__", alter_sys=True)
