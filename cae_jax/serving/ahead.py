"""Work done by threads a little ahead of who asks for it."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


def in_order(
    work: Callable[[Item], Done], items: Iterable[Item], ahead: int, threads: int
) -> Generator[Done, None, None]:
    """Yields `work` of each item, in their order; at most `ahead` are done, or being done, before
    they are asked for."""
    items = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: collections.deque[Future[Done]] = collections.deque()
        while True:
            for item in itertools.islice(items, ahead - len(waiting)):
                waiting.append(pool.submit(work, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
