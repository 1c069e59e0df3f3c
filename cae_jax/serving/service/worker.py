"""One thread for each model, which judges several requests' images in one call.

Whoever brings images books seats first, before they are decoded: there are so many of them and no
more, so that what is under way, and with it memory, is bounded. The thread takes what there is, up
to MANY images; while fewer are there and others are being decoded it waits a moment for these. A
client that is alone never waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from cae_jax.serving.detector import MANY, Detector, Verdict
from cae_jax.types import CaeError


class BusyError(CaeError):
    """No room now; the same request may come again."""


class _Item(NamedTuple):
    pixels: np.ndarray
    name: str
    future: Future[Verdict]


class Worker:
    """The thread of one detector."""

    def __init__(self, detector: Detector, limit: int, max_wait: float) -> None:
        """Starts the thread.

        Args:
          detector: compiled already, see `Detector.warm_up`.
          limit: the seats.
          max_wait: seconds that images wait for others that are on their way.
        """
        self._detector, self._limit, self._max_wait = detector, limit, max_wait
        self._changed = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._taken = 0  # seats
        self._coming = 0  # of those, whose image is not here yet
        self._retired = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def taken(self) -> int:
        """Seats that are taken: images from before their decoding to the end of their request."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Images that are decoded and not judged yet."""
        return len(self._waiting)

    def book(self, n: int) -> Seats | None:
        """Returns n seats, None if it has retired; raises BusyError when too few are left."""
        with self._changed:
            if self._retired:
                return None
            if self._taken + n > self._limit:
                raise BusyError(f"{self._taken} images are under way; come again in a second")
            self._change(n, n)
        return Seats(self, n)

    def retire(self) -> None:
        """Gives no more seats; the thread ends after the last request on it."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()

    def join(self) -> None:
        """Waits for the end of a retired worker's thread."""
        self._thread.join()

    def _change(self, taken: int, coming: int) -> None:
        self._taken += taken
        self._coming += coming
        self._changed.notify_all()

    def _run(self) -> None:
        while items := self._next():
            self._judge([item for item in items if item.future.set_running_or_notify_cancel()])
            del items  # or its images would be held until the next ones come
        del self._detector  # of a model that was replaced: not two of them in memory

    def _next(self) -> list[_Item]:
        """The next images to judge, 1 to MANY; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or (self._retired and not self._taken))
            until = time.monotonic() + self._max_wait
            while self._waiting and len(self._waiting) < MANY and self._coming:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return [self._waiting.popleft() for _ in range(min(MANY, len(self._waiting)))]

    def _judge(self, items: Sequence[_Item]) -> None:
        if not items:
            return
        try:
            pixels = np.stack([item.pixels for item in items])
            verdicts = self._detector.verdicts(pixels, [item.name for item in items])
        except Exception as error:
            if len(items) == 1:
                items[0].future.set_exception(error)
                return
            for item in items:  # an image that cannot be judged is no other one's fault
                self._judge([item])
            return
        for item, verdict in zip(items, verdicts, strict=True):
            item.future.set_result(verdict)


class Seats:
    """A request's seats: each is for one image that is brought or missed."""

    def __init__(self, worker: Worker, n: int) -> None:
        """Takes what `Worker.book` gives."""
        self._worker, self._n, self._left = worker, n, n

    def bring(self, pixels: np.ndarray, name: str) -> Future[Verdict]:
        """Hands in an image, float32 [S, S, C], from any thread; returns what becomes of it.

        That is a Verdict, or what `Detector.verdicts` raises of this image alone.
        """
        item = _Item(pixels, name, Future())
        worker = self._worker
        with worker._changed:
            worker._waiting.append(item)
            self._left -= 1
            worker._change(0, -1)
        return item.future

    def miss(self) -> None:
        """Says that an image will not come."""
        with self._worker._changed:
            self._left -= 1
            self._worker._change(0, -1)

    def leave(self) -> None:
        """Gives the seats back."""
        with self._worker._changed:
            self._worker._change(-self._n, -self._left)
            self._left = 0
