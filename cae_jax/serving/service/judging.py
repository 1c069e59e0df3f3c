"""An image's way through the service: decoded in a pool, judged by the model's worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from cae_jax.data.frame import lost_of, stretched
from cae_jax.runs.machine.progress import say
from cae_jax.serving.detector import Verdict
from cae_jax.serving.service.answers import FAILED
from cae_jax.serving.service.bodies import Bodies
from cae_jax.serving.service.history import History
from cae_jax.serving.service.metrics import Metrics
from cae_jax.serving.service.models import Models, Served
from cae_jax.serving.service.options import Options
from cae_jax.serving.service.worker import Seats
from cae_jax.types import CaeError, DataError

T = TypeVar("T")


class Service(NamedTuple):
    """What the routes share."""

    models: Models
    options: Options
    bodies: Bodies
    metrics: Metrics
    pool: ThreadPoolExecutor  # decodes and encodes, and does nothing that waits
    history: History | None

    async def run(self, call: Callable[[], T]) -> T:
        """Runs a call in the pool."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, call)


class UnusableError(CaeError):
    """One image that cannot be judged, with its status: 400, 422, or 500 where it is our fault."""

    def __init__(self, status: int, message: str) -> None:
        """Takes the status and what to say."""
        super().__init__(message)
        self.status = status


def see_shape(served: Served, size: tuple[int, int]) -> str:
    """Returns how an image of that (height, width) loses its shape, in words, "" where it does not.

    The first image of a model that loses its shape or its borders is told in the log.
    """
    frame = served.detector.model.frame
    if not served.lost and (lost := lost_of(f"model {served.name}", frame, [size])):
        served.lost.append(lost[0])
        say(f"warning: {lost[0]}")
    said = stretched("", frame, [size]) if frame.resize == "stretch" else ()
    return said[0].removeprefix(": ") if said else ""


async def judge(
    service: Service,
    served: Served,
    seats: Seats,
    name: str,
    read: Callable[[], np.ndarray],
    meanwhile: Callable[[np.ndarray], T],
) -> tuple[Verdict, T]:
    """Judges an image on one of a request's seats.

    Args:
      service: with the pool.
      served: the model.
      seats: of its worker.
      name: what errors call the image.
      read: gives its pixels, float32 [S, S, C] in [0, 1]; called in the pool.
      meanwhile: called in the pool with the pixels while they are being judged.

    Returns:
      The verdict, and what `meanwhile` returned.

    Raises:
      UnusableError: it cannot be judged.
    """

    def bring() -> tuple[Future[Verdict], T]:
        try:
            pixels = read()
        except BaseException:
            seats.miss()
            raise
        future = seats.bring(pixels, name)
        return future, meanwhile(pixels)

    try:
        future, made = await service.run(bring)
        verdict = await asyncio.wrap_future(future)
    except CaeError as error:
        service.metrics.unusable(served)
        cause = str(error).removeprefix(f"{name!r}: ")
        raise UnusableError(400 if isinstance(error, DataError) else 422, cause) from None
    except Exception as error:
        service.metrics.unusable(served)
        say(f"model {served.name}: {name}: {type(error).__name__}: {' '.join(str(error).split())}")
        raise UnusableError(500, FAILED) from None
    service.metrics.judged(served, verdict)
    return verdict, made
