"""`python -m experiments.report`: see cae_jax/command/report.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cae_jax.command.report", run_name="__main__", alter_sys=True)
