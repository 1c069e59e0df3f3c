"""The flags of methods that learn by gradients, see `methods.descent`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cae_jax.options import flag

CONSTANT, PIECEWISE = "constant", "piecewise_constant"
# By name, optax's function, and its arguments where it has no default or ours differs: rates are
# shares of the learning rate, "steps" is all of them, "warmup" a share of them.
OF_OPTAX: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "cosine_decay": ("cosine_decay_schedule", {"init_value": 1.0, "decay_steps": "steps"}),
        "cosine_onecycle": (
            "cosine_onecycle_schedule",
            {"peak_value": 1.0, "transition_steps": "steps"},
        ),
        "exponential_decay": (
            "exponential_decay",
            {"init_value": 1.0, "transition_steps": "steps", "decay_rate": 0.01},
        ),
        "linear": (
            "linear_schedule",
            {"init_value": 1.0, "end_value": 0.0, "transition_steps": "steps"},
        ),
        "polynomial": (
            "polynomial_schedule",
            {"init_value": 1.0, "end_value": 0.0, "power": 2.0, "transition_steps": "steps"},
        ),
        "warmup_constant": (
            "warmup_constant_schedule",
            {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": "warmup"},
        ),
        "warmup_cosine_decay": (
            "warmup_cosine_decay_schedule",
            {
                "init_value": 0.0,
                "peak_value": 1.0,
                "warmup_steps": "warmup",
                "decay_steps": "steps",
            },
        ),
    }
)
SCHEDULES = (CONSTANT, PIECEWISE, *OF_OPTAX)


@dataclasses.dataclass(frozen=True)
class Descent:
    """The flags of a method whose optimisers go through `guided`, and what it learns by through
    `averaged`; its Options are of this record too."""

    schedule: str = flag(CONSTANT, "of the learning rate, by optax's names", among=SCHEDULES)
    schedule_options: str = flag(
        "", "of the schedule, by optax's names: name=value with commas; STEP=SCALE of piecewise"
    )
    gradient_clip: float = flag(0.0, "largest norm of a network's whole gradient; 0: any", 0)
    ema: float = flag(
        0.0, "decay of a moving average of the parameters, which is what scores; 0: none", 0, 1
    )
