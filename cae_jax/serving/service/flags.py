"""The service's flags of experiments.serve, and its start from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from absl import flags

from cae_jax.runs import command_line
from cae_jax.serving.detector import Detector
from cae_jax.serving.service import server
from cae_jax.serving.service.history import History
from cae_jax.serving.service.models import Models
from cae_jax.serving.service.options import MAX_IMAGES, Options
from cae_jax.types import UsageError, not_installed

flags.disclaim_key_flags()  # they belong to the binary that calls `define`: its --help


def define() -> None:
    """Defines --host, --port, --token_file and the flags of `Options`."""
    default = Options()
    flags.DEFINE_string("host", "127.0.0.1", "address to listen at")
    flags.DEFINE_integer("port", 8000, "port to listen at; 0 takes any", 0, 65535)
    flags.DEFINE_string(
        "token_file", "", "file of a token that requests must bring; needed if others reach --host"
    )
    megabytes, seconds = default.max_bytes / 1e6, default.timeout
    flags.DEFINE_float("max_megabytes", megabytes, "size of a request's body", 0.001, 1024)
    flags.DEFINE_float("max_pixels", default.max_pixels, "pixels of an image", 1)
    flags.DEFINE_float("timeout", seconds, "seconds in which a body must arrive", 0.1, 3600)
    wait = "milliseconds that an image waits for others to be judged with it, if some are coming"
    flags.DEFINE_float("max_wait_ms", 1e3 * default.max_wait, wait, 0, 1000)
    queue = "images under way at once, of a model; more are told to come again"
    flags.DEFINE_string(
        "history", "", "SQLite file of verdicts and operators' words; in memory if not given"
    )
    flags.DEFINE_integer("queue", default.queue, queue, MAX_IMAGES)


def given() -> Options:
    """Returns the record of the parsed flags; raises UsageError for one that cannot work."""
    value = command_line.value
    for name in ("max_megabytes", "max_pixels", "timeout", "max_wait_ms"):
        if not math.isfinite(value(name)):
            raise UsageError(f"--{name}={value(name)}: must be a number that is finite")
    secret = server.token(value("token_file")) if value("token_file") else ""
    return Options(
        max_bytes=int(1e6 * value("max_megabytes")),
        max_pixels=int(value("max_pixels")),
        timeout=value("timeout"),
        max_wait=value("max_wait_ms") / 1e3,
        queue=value("queue"),
        token=secret,
        hosts=server.hosts(value("host"), secret),
    )


def run(folders: Mapping[str, Path], load: Callable[[Path], Detector]) -> None:
    """Serves models, in these folders by name, until it is told to stop.

    `load` gives a folder's detector. Raises UsageError for flags that cannot work and packages that
    are not installed, and CaeError for a model that cannot be loaded at the start.
    """
    options = given()
    try:
        from cae_jax.serving.service import connection  # noqa: F401 - `server.run` will
        from cae_jax.serving.service.app import make
    except ModuleNotFoundError as error:
        raise not_installed("experiments.serve", error.name, "serve") from error
    models = Models(folders, load, options)
    history = History(command_line.value("history") or None)
    app = make(models, options, history)
    at = server.listen(command_line.value("host"), command_line.value("port"))
    server.run(app, models, options, at)
