"""How `experiments.score --engine=ray` grows with workers: the same images on 1, 2 ... of them.

Numbers of workers take turns. A rate is of the second half of the images: before it workers start.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

import cae_jax
from benchmarks import options, timing
from cae_jax.runs import command_line
from cae_jax.serving.cluster import job, places
from cae_jax.serving.cluster.worker import Task, judge_of
from cae_jax.serving.detector import Detector

_NUMBER = flags.DEFINE_integer("number", 1000, "of images; those of the folder again and again", 8)
flags.DEFINE_string("workdir", "", "of a run, or an exported folder")
flags.DEFINE_string("images", "", "a folder of images, or a URI")
flags.DEFINE_list("actors", ["1", "2"], "numbers of workers, with commas")


def rate(task: Task, images: list[places.Listed], n_actors: int) -> float:
    """Returns images/s of the images behind the middle one."""
    came = [(time.perf_counter(), len(rows)) for rows in job.scored(task, images, n_actors)]
    counts = np.cumsum([n for _, n in came])
    middle = int(np.searchsorted(counts, len(images) / 2))
    return float((counts[-1] - counts[middle]) / (came[-1][0] - came[middle][0]))


def measure(
    detector: Detector, root: str, images: list[places.Listed], counts: Sequence[int], repeats: int
) -> list[dict[str, float]]:
    """Returns a row for each number of workers: the median rate, and its ratio to the first one's,
    the median over turns."""
    task = Task(*detector.again, judge_of(detector), root, 1, None)
    turns = np.array([[rate(task, images, n) for n in counts] for _ in range(repeats)])
    ratios = np.median(turns / turns[:, :1], axis=0)
    return [
        {"workers": n, "images_per_second": float(speed), "over_first": float(ratio)}
        for n, speed, ratio in zip(counts, np.median(turns, axis=0), ratios, strict=True)
    ]


def run() -> None:
    """Measures every number of workers of the flags."""
    counts = options.whole_numbers("actors")
    workdir = command_line.needed("workdir", "of a run, or an exported folder")
    root, found = job.listed_in(command_line.value("images"), True, None)
    images = list(itertools.islice(itertools.cycle(found), _NUMBER.value))
    with job.joined(""):
        detector = cae_jax.load(Path(workdir))
        rows = measure(detector, root, images, counts, command_line.value("repeats"))
    given = {"model": detector.model.title, "number": _NUMBER.value, "rows": rows}
    options.finish([given | timing.environment(("ray", "pyarrow"))])


if __name__ == "__main__":
    options.define(repeats=3)
    command_line.main(run, [])
