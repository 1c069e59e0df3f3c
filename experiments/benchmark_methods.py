"""`python -m experiments.benchmark_methods`: see cae_jax/command/benchmark_methods.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cae_jax.command.benchmark_methods", run_name="__main__", alter_sys=True)
