"""A trained cell judged: scores, thresholds, metrics, plots, all from one scoring of its images."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from cae_jax import data, files
from cae_jax.data import pictures
from cae_jax.evaluation import localization, metrics, thresholds, trivial_scores
from cae_jax.reports import examples, html, plots, results
from cae_jax.runs.config import Config
from cae_jax.runs.machine.progress import Progress
from cae_jax.scoring import patches, scorer
from cae_jax.types import GOOD, Method, Scores, Split, Variables

_SHOWN_PERCENTS = {thresholds.TEST_GOOD: 70, thresholds.VALIDATION_GOOD: 90}


class Judged(NamedTuple):
    """What scoring a split gives."""

    validation: Scores
    test: Scores
    frame: pd.DataFrame  # of scores.csv
    found: localization.Localization | None  # None where no image is held out


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
      CaeError: a distance or a map is not finite.
      DataError: a file cannot be written.
    """
    (folder / "metrics.json").unlink(missing_ok=True)
    for path in folder.glob(".*.tmp"):  # half written when an earlier start was killed
        path.unlink()
    judged = judge(config, method, split, trained, bars)
    results.write_csv(folder / "scores.csv", judged.frame)
    results.write_thesis_csvs(folder, judged.frame)
    results.write_csv(folder / "history.csv", pd.DataFrame(trained.history))
    maps = (judged.validation.residuals[config.distance], judged.test.residuals[config.distance])
    top = examples.scale(*maps)
    _plot(folder, config, split, trained, judged, top)
    if config.save_maps:
        _write_maps(folder, config, split, judged)
    by_distance = _by_distance(split, judged.test)
    found = {
        **_identity(config),
        "n_train": len(split.train),
        **by_distance[config.distance],
        **results.evaluate(judged.frame, [judged.found.point] if judged.found else []),
        "distances": by_distance,
        **localization.results(
            split, maps[1], judged.test.distances[config.distance], judged.found
        ),
        "trivial_auroc": _trivial_auroc(split),
        **_times(config, method, split, trained),
        "data_fingerprint": data.fingerprint(split),
        "device": scorer.device(),
        "jax": jax.__version__,
    }
    found["flag"] = trivial_scores.flag(found["image_auroc"], found["trivial_auroc"])
    _warn(config, found)
    results.write_json(folder / "curves.json", {"pro": localization.pro_curve(split, maps[1])})
    predicted, value = (
        (judged.found.predicted, judged.found.threshold.value) if judged.found else (None, math.nan)
    )
    packed = examples.pack(split, judged.test, config.distance, top, predicted, value)
    files.write_whole(folder / "examples.npz", packed)
    beside = folder / ".metrics.json"  # the page needs it, and it must come last
    results.write_json(beside, found)
    page = html.run_page(html.read_run(folder, beside.name))
    files.write_whole(folder / "report.html", page)
    beside.replace(folder / "metrics.json")


def judge(
    config: Config,
    method: Method,
    split: Split,
    trained: Trained,
    bars: Callable[..., Progress] = Progress,
) -> Judged:
    """Scores the held-out and the test images by every distance, in one pass over them.

    Raises CaeError where a distance or a map is not finite, naming the image.
    """
    call = build_scorer(config, method, all_distances=True)
    test = _score(call, trained, split.test, bars, f"score {config.category} test")
    scorer.check_finite(test, [f"{split.category}/{path}" for path in split.test_paths])
    validation = jax.tree.map(lambda field: field[:0], test)
    if len(split.validation):
        name = f"score {config.category} validation"
        validation = _score(call, trained, split.validation, bars, name)
        paths = [f"{split.category}/{path}" for path in split.validation_paths]
        scorer.check_finite(validation, paths)
    found = localization.localize(
        split,
        validation.residuals[config.distance],
        test.residuals[config.distance],
        config.smallest_defect,
        config.opening,
    )
    return Judged(validation, test, _frame(config, split, validation, test), found)


def build_scorer(config: Config, method: Method, all_distances: bool = False) -> scorer.Scorer:
    """Returns the config's scoring call, by its own distance or by every one of DISTANCES."""
    return scorer.scorer(
        *(method.reconstruct, config.patch_size, config.stride, scorer.default_chunk_size()),
        config.residual(all_distances),
    )


def _score(
    call: scorer.Scorer,
    trained: Trained,
    images: np.ndarray,
    bars: Callable[..., Progress],
    name: str,
) -> Scores:
    with bars(name, len(images), "images") as bar:
        batch = scorer.default_batch_size()
        return scorer.score_all(call, trained.variables, images, batch, bar.update)


def _identity(config: Config) -> dict[str, Any]:
    names = ("dataset", "category", "model", "loss", "distance", "seed", "epochs")
    return {name: getattr(config, name) for name in names}


def _times(config: Config, method: Method, split: Split, trained: Trained) -> dict[str, float]:
    """How long the production call takes: the distance of the verdict and its map alone."""
    call = build_scorer(config, method)
    batch = split.test[: scorer.default_batch_size()]
    milliseconds = scorer.milliseconds_per_image(call, trained.variables, batch)
    n_patches = len(patches.starts(config.image_size, config.stride)) ** 2
    return {
        "ms_per_image": milliseconds,
        "ms_per_patch": milliseconds / n_patches,
        "train_seconds": trained.seconds,
    }


def _by_distance(split: Split, test: Scores) -> dict[str, dict[str, float]]:
    """The metrics of every distance, by its name."""
    return {
        name: results.image_metrics(split.labels, test.distances[name])
        | localization.pixel_results(split, maps)
        for name, maps in test.residuals.items()
    }


def _frame(config: Config, split: Split, validation: Scores, test: Scores) -> pd.DataFrame:
    """The table of scores.csv: validation images first, then the test images."""
    paths = [*split.validation_paths, *split.test_paths]
    columns = {
        name: np.concatenate([validation.distances[name], test.distances[name]])
        for name in test.distances
    }
    distance = columns[config.distance]
    n = len(split.validation_paths)
    columns["p_value"] = np.full(len(paths), np.nan)
    columns["p_value"][n:] = thresholds.p_values(distance[:n], distance[n:])
    return results.scores_frame(
        paths,
        [*[0] * n, *split.labels],
        [*[GOOD] * n, *split.kinds],
        [*["validation"] * n, *["test"] * (len(paths) - n)],
        distance,
        columns,
    )


def _write_maps(folder: Path, config: Config, split: Split, judged: Judged) -> None:
    """Writes every test image's residual map and predicted mask at the image's own size."""
    maps = judged.test.residuals[config.distance]
    masks = judged.found.predicted if judged.found else None
    pictures.write_predictions(
        folder, config.category, split.test_paths, split.test_sizes, maps, masks
    )


def _plot(
    folder: Path, config: Config, split: Split, trained: Trained, judged: Judged, top: float
) -> None:
    """Draws the training curve, Figures 15 and 16, the histogram, and Figure 12."""
    good, defective, held_out = results.distances_of(judged.frame)
    lines = [
        point.threshold
        for point in thresholds.operating_points(good, defective, held_out)
        if point.threshold.rule == "ceil"
        and point.threshold.percent == _SHOWN_PERCENTS[point.threshold.source]
    ]
    title = f"{config.category}, {config.model}, seed {config.seed}"
    plots.plot_training_curve(folder / "training_curve.png", trained.history, title, config.loss)
    plots.plot_whiskers(folder / "whiskers.png", good, defective, lines, title, config.distance)
    plots.plot_histogram(
        folder / "histogram.png", good, defective, held_out, lines, title, config.distance
    )
    distances = judged.test.distances[config.distance]
    chosen = examples.choose(split.kinds, distances, plots.COLUMNS)
    titles = [
        plots.gallery_title(split.kinds[i], float(distances[i]), lines[-1])
        if lines
        else f"{split.kinds[i]}\n{plots.short(float(distances[i]))}"
        for i in chosen
    ]
    plots.plot_gallery(
        folder / "gallery.png",
        split.test[chosen],
        judged.test.reconstruction[chosen],
        judged.test.residuals[config.distance][chosen],
        split.masks[chosen],
        titles,
        top,
        config.distance,
    )


def _trivial_auroc(split: Split) -> dict[str, float]:
    scores = trivial_scores.trivial_scores(split.train, split.test)
    return {name: metrics.image_auroc(split.labels, values) for name, values in scores.items()}


def _warn(config: Config, found: Mapping[str, Any]) -> None:
    """Says when a model is no better than chance or than a trivial score."""
    if found["flag"]:
        name = f"{config.category}, {config.model}, seed {config.seed}"
        print(
            f"warning: {name}: AUROC {found['image_auroc']:.3f}: {found['flag']}", file=sys.stderr
        )
