"""Several processes, on one machine or many, that share one job through `jax.distributed`.

Every process is started with the same command and its own --process_id. Without the flags there is
one process, and everything here holds for it too.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from absl import flags

from cae_jax.types import DataError, UsageError

FLAGS = ("coordinator_address", "num_processes", "process_id")
_START_SECONDS = 300
_WEEK_MS = 7 * 24 * 3600 * 1000
_barriers = itertools.count()  # a barrier's name serves once

Item = TypeVar("Item")

flags.disclaim_key_flags()  # they belong to the experiment that calls `define_flags`: its --help


def define_flags() -> None:
    """Defines the flags of `FLAGS` with absl, for an experiment that several processes may run."""
    flags.DEFINE_string("coordinator_address", None, "several processes: HOST:PORT of number 0")
    flags.DEFINE_integer("num_processes", None, "several processes: how many")
    flags.DEFINE_integer("process_id", None, "several processes: which one this is, from 0")


def start_from_flags() -> None:
    """Calls `start` with the parsed flags of `define_flags`; raises what it raises."""
    address, number, which = (flags.FLAGS[name].value for name in FLAGS)
    start(address, number, which)


def start(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    timeout: int = _START_SECONDS,
) -> None:
    """Joins the other processes; does nothing where all three are None.

    Comes before anything that computes with JAX.

    Args:
      coordinator_address: HOST:PORT, a free port of process 0's machine that all can reach.
      num_processes: how many, at least 1.
      process_id: 0 .. num_processes - 1, another one in every process.
      timeout: how long to wait for the others, in seconds.

    Raises:
      UsageError: only some of the three are given, or one cannot work.
      DataError: the address cannot be used, or nobody listened there in time. JAX ends process 0
        itself when the others do not come in time.
    """
    given = dict(zip(FLAGS, (coordinator_address, num_processes, process_id), strict=True))
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(FLAGS):
        return
    if coordinator_address is None or num_processes is None or process_id is None:
        here = next(name for name in FLAGS if name not in missing)
        raise UsageError(
            f"--{here}={given[here]}: several processes need all three of "
            f"{', '.join(f'--{name}' for name in FLAGS)}; --{missing[0]} is missing"
        )
    host, colon, port = coordinator_address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"--coordinator_address={coordinator_address}: expected HOST:PORT")
    if num_processes < 1:
        raise UsageError(f"--num_processes={num_processes}: must be at least 1")
    if not 0 <= process_id < num_processes:
        raise UsageError(f"--process_id={process_id}: must be from 0 to {num_processes - 1}")
    # Asked first: a wrong address would end the process inside JAX, with no error to catch.
    where = (host.strip("[]"), int(port))
    try:
        if process_id > 0:
            _wait_for(where, timeout)
        elif _listens(where):
            raise DataError(f"--coordinator_address={coordinator_address}: the port is in use")
    except OSError as error:
        cause = error.strerror or error
        raise DataError(f"--coordinator_address={coordinator_address}: {cause}") from error
    import jax

    jax.distributed.initialize(
        coordinator_address, num_processes, process_id, initialization_timeout=timeout
    )


def _listens(where: tuple[str, int]) -> bool:
    """Whether somebody listens there; raises OSError for a host that is none."""
    try:
        socket.create_connection(where, 1).close()
    except (ConnectionRefusedError, TimeoutError):
        return False
    return True


def _wait_for(where: tuple[str, int], timeout: float) -> None:
    """Returns when somebody listens there; raises TimeoutError when nobody does in time."""
    end = time.monotonic() + timeout
    while not _listens(where):
        if time.monotonic() > end:
            raise TimeoutError(f"nobody listened there for {timeout} s")
        time.sleep(0.2)


def is_first() -> bool:
    """Returns whether this is process 0, which writes what is written once."""
    import jax  # here and below: the flags above are read without it

    return jax.process_index() == 0


def share(items: Sequence[Item]) -> Sequence[Item]:
    """Returns this process's part of `items`, every n-th: together they are all, each once."""
    import jax

    return items[jax.process_index() :: jax.process_count()]


def barrier(name: str) -> None:
    """Waits until every process has come here; `name` is the same in all of them.

    For a week at most. JAX ends a process whose peer died meanwhile.
    """
    import jax
    from jax._src import distributed  # no public name for the barrier of its service

    if jax.process_count() > 1:
        # multihost_utils.sync_global_devices gives up after half an hour on CPUs.
        client = distributed.global_state.client
        assert client is not None  # there are several processes
        client.wait_at_barrier(f"cae_jax.{name}.{next(_barriers)}", _WEEK_MS)


@contextlib.contextmanager
def together(name: str) -> Iterator[None]:
    """Runs the body, then waits for the other processes; an error of the body is raised after that.

    A process that left early would take the others with it, and what they were at.
    """
    try:
        yield
    except Exception:
        barrier(name)
        raise
    barrier(name)
