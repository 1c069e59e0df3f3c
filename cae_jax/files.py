"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cae_jax.types import DataError


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file so that `path` holds all of `content` or what it held before.

    Text is written as UTF-8. Raises DataError where the file cannot be written (no such folder,
    no permission, no space left).
    """
    path = Path(path)
    # surrogateescape: a file name that is no UTF-8 reads back as the same name
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise DataError(f"{str(path)!r}: cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes nested dicts, sequences, NumPy arrays and scalars as JSON.

    JSON knows no such numbers: NaN is null, infinity the text "inf" or "-inf", as `float` reads it.
    Raises DataError where the file cannot be written.
    """
    write_whole(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def write_csv(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Writes a table without its index; floats read back to the last bit, NaN is an empty field.

    Raises DataError where the file cannot be written.
    """
    text = frame.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # a bare one ends the line for a reader; Python below 3.13 does not quote it
        text = frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    write_whole(path, text)


def _plain(value: Any) -> Any:
    """What json can write of `value`."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
