"""What JAX cannot take of the environment is told in a line that names the variable."""

import sys

import pytest
from command_lines import process

from cae_jax.runs.machine import variables
from cae_jax.types import UsageError


@pytest.mark.parametrize(
    ("name", "value", "message", "said"),
    [
        (
            "JAX_ENABLE_X64",
            "Maybe",
            "invalid truth value 'maybe' for environment 'JAX_ENABLE_X64'",
            "JAX_ENABLE_X64=Maybe: must be true or false; or unset it",
        ),
        (
            "JAX_NUM_CPU_DEVICES",
            "two",
            "invalid literal for int() with base 10: 'two'",
            "JAX_NUM_CPU_DEVICES=two: must be a whole number; or unset it",
        ),
        (
            "JAX_DEFAULT_MATMUL_PRECISION",
            "high",
            'Invalid value "high" for JAX flag jax_default_matmul_precision',
            "JAX_DEFAULT_MATMUL_PRECISION=high: is no value that JAX knows; or unset it",
        ),
    ],
)
def test_the_variable_is_named(monkeypatch, name, value, message, said):
    monkeypatch.setenv("JAX_ENABLE", "1")  # a name within a name
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught, variables.of_jax():
        raise ValueError(message)
    assert str(caught.value) == said


def test_another_fault_keeps_its_traceback(monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    with pytest.raises(ValueError, match="a bug"), variables.of_jax():
        raise ValueError("a bug")


@pytest.mark.parametrize("command", ["describe", "benchmark_methods", "reproduce_thesis"])
def test_jax_still_says_it_so(command):
    """Of a command that imports JAX in its work, or with its own modules."""
    words = [sys.executable, "-m", f"experiments.{command}", "--methods=all"]
    done = process(*words, JAX_ENABLE_X64="maybe")
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "error: JAX_ENABLE_X64=maybe: must be true or false; or unset it\n",
    )
