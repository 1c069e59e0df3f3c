"""Variables of the environment that JAX reads when it is imported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cae_jax.types import UsageError

_EXPECTED = {  # what JAX's messages hold, and what is expected
    "invalid truth value": "true or false",
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
}


@contextlib.contextmanager
def of_jax() -> Iterator[None]:
    """Raises UsageError, naming the variable, for a value that the import of JAX in the block
    cannot take."""
    try:
        yield
    except ValueError as error:
        if not (name := _named(str(error))):
            raise
        wanted = next((ours for theirs, ours in _EXPECTED.items() if theirs in str(error)), "")
        wanted = f"must be {wanted}" if wanted else "is no value that JAX knows"
        raise UsageError(f"{name}={os.environ[name]}: {wanted}; or unset it") from error


def _named(message: str) -> str:
    """The variable that a message of JAX is about, by its name, else by its value; "" if none."""
    ours = sorted((name for name in os.environ if name.startswith("JAX_")), key=len, reverse=True)
    by_name = [name for name in ours if name in message.upper()]
    by_value = [name for name in ours if repr(os.environ[name]) in message]
    return next(iter([*by_name, *by_value]), "")
