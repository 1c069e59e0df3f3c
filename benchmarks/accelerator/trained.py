"""What `numbers` compares, of autoencoders that the part "training" has trained."""

from __future__ import annotations

from benchmarks.accelerator.numbers import TOGETHER, prepare

__all__ = ["TOGETHER", "prepare"]
