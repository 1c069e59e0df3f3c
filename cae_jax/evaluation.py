"""A trained cell judged: scores, thresholds, metrics, plots, all from one scoring of its images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from cae_jax import baselines, data, metrics, patches, plots, report, score, thresholds
from cae_jax.config import Config
from cae_jax.progress import Progress
from cae_jax.types import GOOD, CaeError, Method, Scores, Split, Variables

_SHOWN_PERCENTS = {thresholds.TEST_GOOD: 70, thresholds.VALIDATION_GOOD: 90}


class Trained(NamedTuple):
    """What training leaves: the parameters and how it went."""

    variables: Variables
    history: list[dict[str, float]]
    seconds: float


def write_evaluation(
    folder: Path,
    config: Config,
    method: Method,
    split: Split,
    trained: Trained,
    bars: Callable[..., Progress] = Progress,
) -> None:
    """Scores a split and writes everything that follows; metrics.json, the mark of a finished
    cell, is taken away first and comes back last.

    Raises:
      CaeError: a score is not finite.
      DataError: a file cannot be written.
    """
    (folder / "metrics.json").unlink(missing_ok=True)
    call = score.scorer(
        method.reconstruct, config.patch_size, config.stride, score.default_chunk_size()
    )
    validation, test = (
        _score(
            call, trained, images, bars(f"score {config.category} {name}", len(images), "images")
        )
        for name, images in (("validation", split.validation), ("test", split.test))
    )
    frame = _frame(split, validation, test)
    report.write_csv(folder / "scores.csv", frame)
    report.write_thesis_csvs(folder, frame)
    report.write_csv(folder / "history.csv", pd.DataFrame(trained.history))
    _plot(folder, config, split, trained, validation, test, frame)
    batch = split.test[: score.default_batch_size()]
    milliseconds = score.milliseconds_per_image(call, trained.variables, batch)
    n_patches = len(patches.starts(config.image_size, config.stride)) ** 2
    found = {
        "dataset": config.dataset,
        "category": config.category,
        "model": config.model,
        "seed": config.seed,
        "epochs": config.epochs,
        "n_train": len(split.train),
        **report.evaluate(frame),
        "trivial_auroc": _trivial_auroc(split),
        "ms_per_image": milliseconds,
        "ms_per_patch": milliseconds / n_patches,
        "train_seconds": trained.seconds,
        "data_fingerprint": data.fingerprint(split),
        "device": score.device(),
        "jax": jax.__version__,
    }
    _warn(config, found)
    report.write_json(folder / "metrics.json", found)


def _score(call: score.Scorer, trained: Trained, images: np.ndarray, bar: Progress) -> Scores:
    with bar:
        batch = score.default_batch_size()
        return score.score_all(call, trained.variables, images, batch, bar.update)


def _frame(split: Split, validation: Scores, test: Scores) -> pd.DataFrame:
    """The table of scores.csv: validation images first, then the test images."""
    paths = [*split.validation_paths, *split.test_paths]
    distances = np.concatenate([validation.distance, test.distance])
    if not np.isfinite(distances).all():
        path = paths[int(np.argmin(np.isfinite(distances)))]
        raise CaeError(f"{split.category}/{path}: the distance is not finite; was it trained well?")
    n = len(validation.distance)
    return report.scores_frame(
        paths,
        [*[0] * n, *split.labels],
        [*[GOOD] * n, *split.kinds],
        [*["validation"] * n, *["test"] * len(test.distance)],
        distances,
    )


def _plot(
    folder: Path,
    config: Config,
    split: Split,
    trained: Trained,
    validation: Scores,
    test: Scores,
    frame: pd.DataFrame,
) -> None:
    """Draws the training curve, Figures 15 and 16, the histogram, and Figure 12."""
    good, defective, held_out = report.distances_of(frame)
    lines = [
        point.threshold
        for point in thresholds.operating_points(good, defective, held_out)
        if point.threshold.rule == "ceil"
        and point.threshold.percent == _SHOWN_PERCENTS[point.threshold.source]
    ]
    title = f"{config.category}, {config.model}, seed {config.seed}"
    plots.plot_training_curve(folder / "training_curve.png", trained.history, title)
    plots.plot_whiskers(folder / "whiskers.png", good, defective, lines, title)
    plots.plot_histogram(folder / "histogram.png", good, defective, held_out, lines, title)
    chosen = choose_examples(split.kinds, test.distance, plots.COLUMNS)
    normal = validation.residual if len(validation.residual) else test.residual
    titles = [
        plots.gallery_title(split.kinds[i], float(test.distance[i]), lines[-1])
        if lines
        else f"{split.kinds[i]}\n{plots.short(float(test.distance[i]))}"
        for i in chosen
    ]
    plots.plot_gallery(
        folder / "gallery.png",
        split.test[chosen],
        test.reconstruction[chosen],
        test.residual[chosen],
        split.masks[chosen],
        titles,
        float(np.quantile(normal, 0.999)),
    )


def _trivial_auroc(split: Split) -> dict[str, float]:
    scores = baselines.trivial_scores(split.train, split.test)
    return {name: metrics.image_auroc(split.labels, values) for name, values in scores.items()}


def _warn(config: Config, found: Mapping[str, Any]) -> None:
    """Says when a model is no better than chance or than a trivial score."""
    flag = baselines.flag(found["image_auroc"], found["trivial_auroc"])
    if flag:
        name = f"{config.category}, {config.model}, seed {config.seed}"
        print(f"warning: {name}: AUROC {found['image_auroc']:.3f}: {flag}", file=sys.stderr)


def choose_examples(kinds: tuple[str, ...], distances: np.ndarray, n: int) -> list[int]:
    """Returns up to n test images that show every kind, good first, evenly over the distances."""
    names = sorted(set(kinds), key=lambda kind: (kind != GOOD, kind))[:n]
    chosen: list[int] = []
    for i, name in enumerate(names):
        of_kind = np.flatnonzero(np.array(kinds) == name)
        of_kind = of_kind[np.argsort(distances[of_kind], kind="stable")]
        share = -(-(n - len(chosen)) // (len(names) - i))  # rounded up: good images first
        picks = np.linspace(0, len(of_kind) - 1, min(share, len(of_kind)) + 2)[1:-1]
        chosen += [int(of_kind[round(pick)]) for pick in picks]
    return chosen
