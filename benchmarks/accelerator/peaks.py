"""What devices can do at most, by their makers and by a large product, and how full they are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing

# Dense TFLOP/s by the makers' data sheets, of float32 products, of TF32 ones and of bfloat16. The
# beginning of a device's name tells which it is, the longest one that fits.
_TFLOPS: dict[str, dict[str, float]] = {
    "NVIDIA A100": {"float32": 19.5, "tf32": 156, "bfloat16": 312},
    "NVIDIA H100": {"float32": 67, "tf32": 494.7, "bfloat16": 989.4},  # SXM
    "NVIDIA H100 NVL": {"float32": 60, "tf32": 417.5, "bfloat16": 835},
    "NVIDIA H100 PCIe": {"float32": 51, "tf32": 378, "bfloat16": 756},
    "NVIDIA H200": {"float32": 67, "tf32": 494.7, "bfloat16": 989.4},
    "NVIDIA L4": {"float32": 30.3, "tf32": 60, "bfloat16": 121},
    "Tesla T4": {"float32": 8.1},
    "Tesla V100": {"float32": 15.7},
    "TPU v4": {"bfloat16": 275},
    "TPU v5 lite": {"bfloat16": 197},
    "TPU v5p": {"bfloat16": 459},
    "TPU v6 lite": {"bfloat16": 918},
}
_PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}


def device() -> dict[str, Any]:
    """Returns the device's kind, its memory, and the TFLOP/s of its maker, {} where not known."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "device_kind": first.device_kind,
        "data_sheet_tflops": data_sheet(first.device_kind),
        "memory_bytes": (first.memory_stats() or {}).get("bytes_limit"),
    }


def data_sheet(kind: str) -> dict[str, float]:
    """Returns dense TFLOP/s by precision of a device of that kind; {} where it is not known."""
    known = [name for name in _TFLOPS if kind.startswith(name)]
    return _TFLOPS[max(known, key=len)] if known else {}


def shares(gflops: float, mode: str) -> dict[str, float]:
    """Returns a speed as a share of the device's by its maker, {} where that is not known."""
    peak = data_sheet(jax.devices()[0].device_kind).get(mode)
    return {"share_of_peak": gflops / (1e3 * peak)} if peak else {}


def memory() -> dict[str, int]:
    """Returns the most bytes of the device that this process has held, {} where none are told."""
    stats = jax.devices()[0].memory_stats() or {}
    return {k: int(stats[k]) for k in ("peak_bytes_in_use",) if k in stats}


def of_program(compiled: Any) -> dict[str, int]:
    """Returns the bytes of a compiled program's arguments, results and temporaries, if told."""
    try:
        told = compiled.memory_analysis()
        kinds = ("argument", "output", "temp")
        return {f"{kind}_bytes": int(getattr(told, f"{kind}_size_in_bytes")) for kind in kinds}
    except Exception:  # a device need not know
        return {}


def products(side: int, repeats: int) -> dict[str, float]:
    """Returns the TFLOP/s of a matrix product of that side by precision, on random numbers."""
    a, b = (jax.random.normal(jax.random.key(i), (side, side)) for i in range(2))
    found = {}
    for name, precision in _PRECISIONS.items():
        dtype = jnp.bfloat16 if name == "bfloat16" else jnp.float32
        left, right = a.astype(dtype), b.astype(dtype)
        with jax.default_matmul_precision(precision):
            compiled = jax.jit(jnp.matmul).lower(left, right).compile()
        calls = {timing.PEAK: functools.partial(_waited, compiled, left, right)}
        seconds = timing.interleaved(calls, repeats)[timing.PEAK]
        found[name] = 2e-12 * side**3 / float(np.median(seconds))
    return found


def _waited(call: Callable[..., Any], *args: Any) -> Any:
    return jax.block_until_ready(call(*args))
