"""A trained cell judged: scores, thresholds, metrics, plots, all from one scoring of its images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from cae_jax import data, files, options
from cae_jax.data import pictures
from cae_jax.evaluation import (
    collapse,
    finite,
    localization,
    metrics,
    per_category,
    scores,
    segmentation,
    summary,
    threshold_rule,
    thresholds,
    trivial_scores,
    verdict,
)
from cae_jax.reports import charts, examples, html, plots, results, rules
from cae_jax.reports.run_files import FINISHED
from cae_jax.runs.build import scoring_call
from cae_jax.runs.calibration import Calibration, calibrate
from cae_jax.runs.cell import Cell
from cae_jax.runs.config import Config
from cae_jax.runs.epoch_log import HISTORY
from cae_jax.runs.machine.foretold import CALL
from cae_jax.runs.machine.progress import Bar, say
from cae_jax.runs.train import Trained
from cae_jax.scoring import patches, scorer
from cae_jax.scoring.intensity import seen_with
from cae_jax.scoring.options import Windows
from cae_jax.types import GOOD, DataError, Scores, Split, UsageError


class Judged(NamedTuple):
    """What scoring a split gives."""

    unseen: Calibration
    test: Scores[np.ndarray]
    frame: pd.DataFrame  # of scores.csv
    found: localization.Localization | None  # None where no good image was left unseen


class Shown(NamedTuple):
    """The images that pictures are made of: those of the test; where there is none, good ones that
    the model has not seen."""

    split: Split  # its test images are these
    scores: Scores[np.ndarray]
    predicted: np.ndarray | None  # bool [n, H, W]; None where there is no threshold of maps
    rows: np.ndarray  # int [n]: which row of scores.csv each of them is


def write_evaluation(cell: Cell, split: Split, trained: Trained) -> None:
    """Scores a split and writes everything that follows; metrics.json, the mark of a finished
    cell, is taken away first and comes back last.

    Raises:
      CaeError: a distance or a map is not finite.
      DataError: a file cannot be written.
    """
    folder, config = cell
    (folder / FINISHED).unlink(missing_ok=True)
    for path in folder.glob(".*.tmp"):  # half written when an earlier start was killed
        path.unlink()
    judged = judge(config, split, trained)
    files.write_csv(folder / "scores.csv", judged.frame, config.excel)
    results.write_thesis_csvs(folder, judged.frame, config.excel)
    if trained.history:  # of a run that an earlier version trained
        files.write_csv(folder / HISTORY, pd.DataFrame(trained.history))
    maps = (judged.unseen.maps, judged.test.residuals[config.distance])
    top = examples.scale(*maps)
    if config.save_maps:
        _write_maps(cell, split, judged)
    found = _metrics(config, split, trained, judged)
    _warn(cell, found)
    shown = _shown(config, split, judged)
    _plot(cell, trained, judged.frame, found, shown, top)
    files.write_json(folder / "curves.json", {"pro": localization.pro_curve(split, maps[1])})
    value = judged.found.threshold.value if judged.found else math.nan
    of_shown = (shown.split, shown.scores, config.distance, top, shown.predicted, value, shown.rows)
    packed = examples.pack(*of_shown)
    files.write_whole(folder / "examples.npz", packed)
    beside = folder / f".{FINISHED}"  # the page needs it, and it must come last
    files.write_json(beside, found)
    page = html.run_page(html.read_run(folder, beside.name))
    files.write_whole(folder / "report.html", page)
    beside.replace(folder / FINISHED)


def judge(config: Config, split: Split, trained: Trained) -> Judged:
    """Scores the unseen good and the test images by every distance, in one pass over them.

    Raises CaeError where a distance or a map is not finite, naming the image; DataError where there
    is no image that the model has not learned from.
    """
    unseen = calibrate(config, split, trained)
    n = len(split.train)
    if not unseen.paths and not split.test_paths:
        raise DataError(
            f"{split.category}: "
            + (f"all {n} good images are one image" if n > 1 else "one good image")
            + ", and there is no other: nothing to pick a threshold on; take 2 at least, better 20"
        )
    call = scoring_call(config, all_distances=True)
    with Bar(f"score {config.category} test", len(split.test), "images", first=CALL) as bar:
        batch = scorer.default_batch_size()
        test = _no_scores(config)
        if split.test_paths:
            given = split.seen(split.test, split.test_paths)
            test = scorer.score_all(call, trained.variables, given, batch, bar.update)
    finite.check_finite(test, [f"{split.category}/{path}" for path in split.test_paths])
    maps = test.residuals[config.distance]
    found = localization.localize(split, maps, unseen.area, unseen.source)
    return Judged(unseen, test, _frame(config, split, unseen, test), found)


def _no_scores(config: Config) -> Scores[np.ndarray]:
    """Of no image, by every distance."""
    names, size = config.build().distances, config.frame.size or (0, 0)
    empty = np.zeros((0, *size), np.float32)
    return Scores({n: np.zeros(0, np.float32) for n in names}, dict.fromkeys(names, empty), None)


def _shown(config: Config, split: Split, judged: Judged) -> Shown:
    unseen, name = judged.unseen, config.distance
    if split.test_paths:
        predicted = judged.found.predicted if judged.found else None
        rows = len(unseen.paths) + np.arange(len(split.test_paths))
        return Shown(split, judged.test, predicted, rows)
    n = len(unseen.rows)
    good = dataclasses.replace(
        split,
        test=files.rows(unseen.images, unseen.rows),
        test_paths=tuple(unseen.paths[i] for i in unseen.rows),
        kinds=(GOOD,) * n,
        masks=np.zeros(unseen.maps.shape, bool),
        has_mask=np.ones(n, bool),
    )
    threshold, opening = unseen.area.threshold, config.opening
    predicted = segmentation.segment(unseen.maps, threshold, opening) if judged.found else None
    scores_of = Scores({name: unseen.distances[name][unseen.rows]}, {name: unseen.maps}, None)
    return Shown(good, scores_of, predicted, unseen.rows)


def _metrics(config: Config, split: Split, trained: Trained, judged: Judged) -> dict[str, Any]:
    """What metrics.json holds."""
    by_distance = _by_distance(split, judged.test)
    maps = judged.test.residuals[config.distance]
    found = {
        **_identity(config),
        # fewer than were asked for where it stopped early
        **({"epochs_done": int(trained.history[-1]["epoch"])} if trained.history else {}),
        "n_train": len(split.train),
        **by_distance[config.distance],
        **summary.summarize(
            judged.frame,
            [judged.found.point] if judged.found else [],
            config.false_alarms,
            _asked(config, judged.frame),
        ),
        "distances": by_distance,
        **localization.results(split, maps, judged.test.distances[config.distance], judged.found),
        **_shortcuts(config, split),
        "n_recurring": _n_recurring(split),
        "collapse": collapse.warning(trained.history),
        "few": thresholds.few(len(judged.unseen.paths)),
        **_times(config, split, trained),
        **({"cross_fit_seconds": judged.unseen.seconds} if config.folds else {}),
        # of all that scoring needs, pretrained weights among it
        "model_megabytes": sum(leaf.nbytes for leaf in jax.tree.leaves(trained.variables)) / 1e6,
        "data_fingerprint": data.fingerprint(split),
        "device": scorer.device(),
        "jax": jax.__version__,
    }
    if config.joint:
        distances = judged.test.distances[config.distance]
        found["categories"] = per_category.results(
            config.parts, split, distances, maps, found["operating_points"]
        )
    found["flag"] = ""  # of good images alone there is nothing to say
    if split.test_paths:
        found["flag"] = trivial_scores.flag(found["image_auroc"], found["trivial_auroc"])
    return found


def _asked(config: Config, frame: pd.DataFrame) -> thresholds.Threshold | None:
    """The threshold of the rule that was asked for; where there are no images for it, that is said,
    and the usual one counts."""
    if not config.threshold:
        return None
    good, defective, unseen = scores.distances_of(frame)
    rule = threshold_rule.parse(config.threshold)
    try:
        found = threshold_rule.threshold(rule, good, defective, unseen, scores.source(frame))
    except UsageError as error:
        say(f"warning: {config.category}: {error}; verdicts go by the usual threshold")
        return None
    if said := rules.leak(found):
        say(f"warning: {config.category}: {said}")
    return found


def _identity(config: Config) -> dict[str, Any]:
    """What the cell is, and as far as its method has such options: model, loss, epochs."""
    own = options.values(config.options)
    shared = ("dataset", "category", "joint", "method", "intensity")
    return {
        **{name: getattr(config, name) for name in shared},
        "model": own.get("model", config.method),
        **{name: own[name] for name in ("loss", "epochs") if name in own},
        **{"run": config.title, "distance": config.distance, "seed": config.seed},
    }


def _times(config: Config, split: Split, trained: Trained) -> dict[str, float]:
    """How long the production call takes: the distance of the verdict and its map alone."""
    call = scoring_call(config)
    first = slice(scorer.default_batch_size())
    images, paths = split.test, split.test_paths
    if not paths:
        images, paths = split.train, split.train_paths
    batch = split.seen(images, paths)[first]
    found = {"ms_per_image": scorer.milliseconds_per_image(call, trained.variables, batch)}
    if isinstance(w := config.options, Windows):
        n_patches = config.n_tiles * patches.number(config.inspected_size, w.stride)
        found["ms_per_patch"] = found["ms_per_image"] / n_patches
    return {**found, "train_seconds": trained.seconds}


def _by_distance(split: Split, test: Scores[np.ndarray]) -> dict[str, dict[str, float]]:
    """The metrics of every distance, by its name."""
    return {
        name: summary.image_metrics(split.labels, test.distances[name])
        | localization.pixel_results(split, maps)
        for name, maps in test.residuals.items()
    }


def _frame(
    config: Config, split: Split, unseen: Calibration, test: Scores[np.ndarray]
) -> pd.DataFrame:
    """The table of scores.csv: unseen good images first, then the test images."""
    paths = [*unseen.paths, *split.test_paths]
    columns = {
        name: np.concatenate([unseen.distances[name], test.distances[name]])
        for name in test.distances
    }
    distance = columns[config.distance]
    n = len(unseen.paths)
    of_unseen = scores.UNFOLDED if unseen.source == thresholds.OUT_OF_FOLD else scores.HELD_OUT
    columns["p_value"] = np.full(len(paths), np.nan)
    columns["p_value"][n:] = thresholds.p_values(distance[:n], distance[n:])
    return scores.scores_frame(
        paths,
        [*[0] * n, *split.labels],
        [*[GOOD] * n, *split.kinds],
        [*[of_unseen] * n, *[scores.TEST] * (len(paths) - n)],
        distance,
        columns,
    )


def _write_maps(cell: Cell, split: Split, judged: Judged) -> None:
    """Writes every test image's residual map and predicted mask at the image's own size."""
    folder, config = cell
    maps = judged.test.residuals[config.distance]
    masks = judged.found.predicted if judged.found else None
    category = "" if config.joint else config.category  # a joint path begins with its own
    pictures.write_predictions(
        folder, category, split.test_paths, split.test_sizes, maps, masks, config.frame
    )


def _plot(
    cell: Cell,
    trained: Trained,
    frame: pd.DataFrame,
    found: Mapping[str, Any],
    shown: Shown,
    top: float,
) -> None:
    """Draws the training curve, Figures 15 and 16, the histogram, and Figure 12."""
    folder, name = cell.folder, cell.config.distance
    drawn = charts.of_run(frame, found, pd.DataFrame(trained.history))
    if drawn.training:
        plots.plot_training_curve(folder / "training_curve.png", drawn.training, cell.title)
    if drawn.whiskers:
        plots.plot_whiskers(folder / "whiskers.png", drawn.whiskers, cell.title)
    if drawn.histogram:
        plots.plot_histogram(folder / "histogram.png", drawn.histogram, cell.title)
    point = verdict.counting(found["operating_points"])
    counts = None if point is None else verdict.value(point)
    of, distances, made = shown.split, shown.scores.distances[name], shown.scores.reconstruction
    chosen = examples.choose(of.kinds, distances, plots.COLUMNS)
    plots.plot_gallery(
        folder / "gallery.png",
        of.test[chosen],
        None if made is None else made[chosen],
        shown.scores.residuals[name][chosen],
        of.masks[chosen],
        [plots.gallery_title(of.kinds[i], float(distances[i]), counts) for i in chosen],
        top,
        name,
    )


def _shortcuts(config: Config, split: Split) -> dict[str, Any]:
    """How well test images are told apart by numbers that know nothing of defects."""
    if not split.test_paths:
        return {"trivial_auroc": {}, "light_auroc": {}, "light": ""}

    def auroc(found: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {name: metrics.image_auroc(split.labels, values) for name, values in found.items()}

    train, test = split.train, split.test
    parts = (split.seen(train, split.train_paths), split.seen(test, split.test_paths))
    own, channels = config.intensity, train.shape[-1]
    trivial = auroc(trivial_scores.trivial_scores(*parts, seen_with(own, channels)))
    light = {own: {name: trivial[name] for name in trivial_scores.LIGHT}}
    for name in {"none", "median"} - {own}:
        light[name] = auroc(trivial_scores.light_scores(*parts, seen_with(name, channels)))
    return {
        "trivial_auroc": trivial,
        "light_auroc": dict(sorted(light.items())),
        "light": trivial_scores.exposure(config.intensity, light),
    }


def _n_recurring(split: Split) -> int:
    """How many test images repeat one to learn from, exactly or nearly."""
    test = set(split.test_paths)
    return len({d.path for d in split.duplicates if d.path in test and d.like not in test})


def _warn(cell: Cell, found: dict[str, Any]) -> None:
    """Says when a method is no better than chance or than a trivial score, what a rate of false
    alarms that was asked for comes to, when no good image could be left unseen, when brightness
    alone could be all that it goes by, and when a generator has collapsed."""
    if found["light"] and cell.config.intensity == "none":
        say(f"warning: {cell.title}: {found['light']}")
    if found["few"]:
        say(f"warning: {cell.title}: {found['few']}")
    if found["collapse"]:
        say(f"warning: {cell.title}: {found['collapse']}")
    if found["flag"]:
        say(f"warning: {cell.title}: AUROC {found['image_auroc']:.3f}: {found['flag']}")
    point, rate = rules.shown(found), cell.config.false_alarms
    if rate and point and point["rule"] == "false_alarms":
        say(f"{cell.title}: {rules.promise(point)}")
    if cell.config.folds and not found["n_out_of_fold"]:
        say(
            f"warning: {cell.title}: the good images to learn from are one image, which cannot be "
            "left out: no threshold from good images alone"
            + (f", none for --false_alarms={rate}" if rate else "")
        )
