"""ONNX Runtime and OpenVINO on a graph of operators, with the settings of every comparison; and how
far apart two arrays are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

Run: TypeAlias = Callable[[np.ndarray], Sequence[np.ndarray]]  # one array in, the outputs out


def onnxruntime_run(model: bytes) -> Run:
    """Returns what runs a serialised ONNX model of one input on every core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    # its threads would spin on into the next engine's time
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda x: session.run(None, {given.name: x})


def openvino_run(model: Any) -> Run:
    """Returns what runs OpenVINO's model of one input on every core."""
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 is its default where a CPU has it
        "INFERENCE_NUM_THREADS": os.cpu_count() or 1,
    }
    compiled = openvino.compile_model(model, "CPU", settings)

    def run(x: np.ndarray) -> list[np.ndarray]:
        found = compiled(x, share_inputs=True, share_outputs=True)
        return [found[i] for i in range(len(compiled.outputs))]

    return run


def apart(ours: jax.Array | np.ndarray, theirs: np.ndarray) -> float:
    """Returns the largest difference over the largest value of ours; raises ValueError on shape."""
    mine = np.asarray(ours)
    if mine.shape != theirs.shape:
        raise ValueError(f"ours is {mine.shape}, theirs {theirs.shape}")
    return float(np.abs(mine - theirs).max() / np.abs(mine).max())
