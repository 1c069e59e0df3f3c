"""`python -m experiments.export`: see cae_jax/command/export.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cae_jax.command.export", run_name="__main__", alter_sys=True)
