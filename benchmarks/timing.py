"""How the benchmarks measure: calls in turn, the machine's own peak, memory, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from cae_jax.runs.dry_run import peak_bytes
from cae_jax.scoring import scorer

OURS, PEAK, AROUND = "cae_jax", "matrix_product", "around_the_network"
_SIDE = 2048
PEAK_GFLOP = 2e-9 * _SIDE**3  # of one call of `matrix_product`
_VARIABLES = (
    *("XLA_FLAGS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"),
    *("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"),
)
_REST = 0.01  # seconds before a timed call: other engines' threads go on spinning for a while


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: int, warm: bool = False
) -> dict[str, list[float]]:
    """Times calls in turn (a, b, a, b ...), so that a busy moment of the machine meets them all.

    Args:
      calls: by name; each must wait for its result. All are called once before, untimed.
      repeats: timed calls of each.
      warm: whether they were called before already.

    Returns:
      Seconds by name, [repeats].
    """
    for call in () if warm else calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(_REST)
            began = time.perf_counter()
            result = call()
            seconds[name].append(time.perf_counter() - began)
            del result  # freed here, and not inside the next call's time
    return seconds


def matrix_product() -> Callable[[], object]:
    """Returns a call of PEAK_GFLOP: what the machine can do, to hold a network's speed against."""
    rng = np.random.default_rng(0)
    a, b = (jax.device_put(rng.random((_SIDE, _SIDE), np.float32)) for _ in range(2))
    product = jax.jit(lambda a, b: a @ b)
    return lambda: jax.block_until_ready(product(a, b))


def milliseconds(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Returns median and 95th percentile by name, in milliseconds a call."""
    names = ("median", "p95")
    return {
        name: dict(zip(names, map(float, np.percentile(each, (50, 95)) * 1e3), strict=True))
        for name, each in seconds.items()
    }


def milliseconds_per(unit: str, n: int, seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns percentiles of our call over the n units in it: p50_ms_per_UNIT, p95_..., p99_...."""
    found = np.percentile(seconds[OURS], (50, 95, 99)) * 1e3 / n
    return {
        f"{name}_ms_per_{unit}": float(each)
        for name, each in zip(("p50", "p95", "p99"), found, strict=True)
    }


def share(name: str, seconds: Mapping[str, Sequence[float]]) -> float:
    """Returns a call's median time over that of our whole call."""
    return float(np.median(seconds[name]) / np.median(seconds[OURS]))


def ratios(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns every engine's median time over ours: above 1, ours is ahead."""
    ours = np.median(seconds[OURS])
    others = (name for name in seconds if name not in (OURS, PEAK, AROUND))
    return {name: float(np.median(seconds[name]) / ours) for name in others}


def speed(gflop: float, seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns GFLOP/s of our call, of `matrix_product` in the same run, and the share."""
    ours, peak = gflop / np.median(seconds[OURS]), PEAK_GFLOP / np.median(seconds[PEAK])
    return {"gflops": float(ours), "peak_gflops": float(peak), "share_of_peak": float(ours / peak)}


def peak_memory_mb() -> float:
    """Returns the most memory held so far, in 10^6 bytes: the device's, on a CPU the process's."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"] / 1e6
    return peak_bytes() / 1e6


def environment(packages: Sequence[str] = ()) -> dict[str, object]:
    """Returns where numbers come from: device, versions, what steers threads and XLA, command."""
    names = ("jax", "jaxlib", "flax", "numpy", *packages)
    module = Path(sys.argv[0]).stem
    return {
        "device": scorer.device(),
        "cores": os.cpu_count(),
        "cpu": _cpu_name(),
        "jax": jax.__version__,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in names},
        },
        "environment": {k: v for k, v in os.environ.items() if k in _VARIABLES},
        "command": shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]]),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
