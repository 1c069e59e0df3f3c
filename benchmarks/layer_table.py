"""The record of `benchmarks.layers` as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(record: Mapping[str, Any], share: float) -> str:
    """Returns GFLOP/s of each way as text, a mark at a slow layer that takes more than `share`."""
    ways = ("forward", "input_gradient", "kernel_gradient")
    lines = [
        f"{record['model']}: {record['ms_per_step']:.0f} ms a step of {record['batch_size']} "
        f"patches; layers on {record['chunk_size']}; matrix product {record['peak_gflops']:.0f} "
        f"GFLOP/s on {record['device']}",
        f"{'GFLOP/s':22}{'forward':>10}{'input':>10}{'kernel':>10}{'together':>10}{'step':>8}",
    ]
    for row in record["layers"]:
        speeds = [row["gflops"].get(way) for way in ways]
        cells = [" " * 10 if speed is None else f"{speed:10.1f}" for speed in speeds]
        mark = "  <" if row["marked"] else ""
        together, part = row["gflops_together"], row["share_of_step"]
        lines.append(f"{row['name']:22}{''.join(cells)}{together:10.1f}{part:8.1%}{mark}")
    lines.append(f"< below a third of the peak and above {share:.0%} of the step")
    return "\n".join(lines)
