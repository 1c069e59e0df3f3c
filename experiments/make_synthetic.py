"""`python -m experiments.make_synthetic`: see cae_jax/command/make_synthetic.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cae_jax.command.make_synthetic", run_name="__main__", alter_sys=True)
