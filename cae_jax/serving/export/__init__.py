"""A trained run as a folder that works without this project's training code.

    model.json           thresholds with provenance, the unseen images' scores, preprocessing,
                         numbers, versions
    README.md            the model card, with a few lines of Python that run the ONNX file
    stablehlo/           for JAX: batch.bin, image.bin, weights.npz, see `stablehlo`
    onnx/                model.onnx and batch.onnx, see `onnx_files`
    sample/              an image, and what the model says of it
    web/                 a page that runs the model in a browser, see `web`
    SHA256SUMS           of every other file

The folder is checked against the run before it gets its name: it is right or absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cae_jax.data.frame import Hole
from cae_jax.evaluation import scores
from cae_jax.files import replace, write_json, write_whole
from cae_jax.options import to_text
from cae_jax.reports.run_files import FACTS, FINISHED, SUMS, VERSIONS
from cae_jax.runs import frames
from cae_jax.serving import exported, web
from cae_jax.serving.detector import Verdict
from cae_jax.serving.export import card, check, onnx_files, stablehlo
from cae_jax.serving.export.check import Row, Sample
from cae_jax.serving.export.program import program_of
from cae_jax.serving.trained import TrainedRun
from cae_jax.types import DataError, UsageError, not_installed, unknown_name

FORMATS = ("stablehlo", "onnx", "web")
_PACKAGES = ("onnx", "onnxruntime")  # of all but stablehlo


def export(
    run: TrainedRun,
    output: Path,
    formats: Sequence[str],
    overwrite: bool = False,
    onnxruntime_web: str = "",
) -> list[Row]:
    """Writes an exported folder and checks it against its run.

    Args:
      run: as `trained.open_run` opens it, with the threshold that is exported.
      output: the folder, which must not be there.
      formats: of FORMATS; "web" brings "onnx" along.
      overwrite: put it in the place of an exported folder that is there.
      onnxruntime_web: see `web.write`.

    Returns:
      How each form judges some images, beside the trained model.

    Raises:
      UsageError: an unknown format, one whose packages are not installed, or `output` is there.
      DataError: a file cannot be written; the run has no pictures to check by.
      CaeError: the model cannot be exported, or a form does not score as the trained model does.
    """
    _check_formats(run, formats)
    frame = run.cell.frame
    holes = [area for area in frame.areas if isinstance(area, Hole)]
    made = [name for name in FORMATS if name in formats or (name == "onnx" and "web" in formats)]
    with _beside(output, overwrite) as folder:
        what = program_of(run)
        given = check.samples(run.cell)
        wanted = [run.detector.score(each.png) for each in given]
        facts = _facts(run, made)
        if not frame.plain:
            facts["frame"] = {"resize": frame.resize, "roi": frame.roi}
            facts["frame"]["partial"] = frame.partial
            facts["frame"]["ignore"] = next((a.part for a in holes), None)
            facts["frame"]["masks"] = frames.keep(frame, folder)
        if "stablehlo" in made:
            facts["stablehlo"] = stablehlo.write(what, folder)
        if "onnx" in made:
            facts["onnx"] = onnx_files.write(what, folder)
        _write_sample(folder, given[0], wanted[0], facts)
        if "web" in made:
            _write_web(folder, run, given[0], facts, onnxruntime_web)
        write_json(folder / FACTS, facts)
        rows = _checked(run, folder, made, given, wanted)
        facts["check"] = [row._asdict() | {"relative": row.relative} for row in rows]
        write_json(folder / FACTS, facts)
        write_whole(folder / exported.CARD, card.text(facts))
        _sum(folder)
    return rows


def _check_formats(run: TrainedRun, formats: Sequence[str]) -> None:
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("--format", name, FORMATS)
    if not formats:
        raise UsageError(f"--format=: name one or more of {', '.join(FORMATS)}")
    if "web" in formats and any(isinstance(area, Hole) for area in run.cell.frame.areas):
        raise UsageError(
            f"--format=web: the page knows no --ignore={run.cell.config.ignore}; learn with an "
            "image that is white there, --ignore=mask.png"
        )
    for name in formats:
        for package in _PACKAGES:
            if name != "stablehlo" and importlib.util.find_spec(package) is None:
                raise not_installed(f"--format={name}", package, "export")
        if name != "stablehlo" and run.cell.config.tile:
            raise UsageError(
                f"--format={name}: has no loop over the tiles of --tile={run.cell.config.tile}; "
                "--format=stablehlo has"
            )


def _facts(run: TrainedRun, formats: list[str]) -> dict[str, Any]:
    c, folder = run.cell.config, run.cell.folder
    metrics = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
    table = scores.read_scores(folder / "scores.csv")
    good, defective, unseen = scores.distances_of(table)
    threshold = run.judge.threshold
    points = metrics.pop("operating_points")
    return {
        "form": exported.FORM,
        "title": run.cell.title,
        "category": c.category,
        "method": c.method,
        "image_size": c.image_size,  # a side, or [height, width]
        "channels": c.channels,
        "bit_depth": c.bit_depth,
        "background": c.background,
        "intensity": c.intensity,
        "distance": c.distance,
        "opening": c.opening,
        "scale": run.detector.model.scale,
        "threshold": threshold.value,
        "threshold_of": dataclasses.asdict(threshold),
        "map_threshold": run.judge.map_threshold,
        "asked": {name: run.given[name] for name in ("percent", "false_alarms", "threshold")},
        "threshold_rule": c.threshold,
        "false_alarms": c.false_alarms,
        "scores": {
            "unseen": unseen,
            "test_good": good,
            "test_defective": defective,
            "source": scores.source(table),
        },
        "operating_points": points,
        "metrics": metrics,
        "flags": [
            f"--{name}={_without_folders(to_text(value))}"
            for name, value in c.flags().items()
            if name not in _PLACES
        ],
        "versions": json.loads((folder / VERSIONS).read_text(encoding="utf-8")),
        "exported": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "formats": formats,
    }


_PLACES = ("workdir", "data_dir", "save_maps", "overwrite")  # of the machine, not of the model


def _without_folders(value: str) -> str:
    """A file's name alone, of masks and weights: the folder may be published."""
    return os.path.basename(value) if os.path.isabs(value) else value


def _write_sample(folder: Path, sample: Sample, found: Verdict, facts: dict[str, Any]) -> None:
    (folder / "sample").mkdir()
    write_whole(folder / "sample" / "image.png", sample.png)
    facts["sample"] = {
        "file": "sample/image.png",
        "score": found.distance,
        "defective": found.defective,
        "p_value": found.p_value,
        "mask_pixels": int(found.mask.sum()),
    }


def _write_web(
    folder: Path, run: TrainedRun, sample: Sample, facts: dict[str, Any], runtime: str
) -> None:
    """The page without a server; its model holds its weights itself."""
    model, given = folder / "web.onnx", Path(runtime) if runtime else None
    write_whole(model, onnx_files.in_one(folder))
    expected, of = facts["sample"], run.detector.model
    web.write(folder / "web", model, of, run.judge, sample.png, expected, given)
    model.unlink()


def _checked(
    run: TrainedRun, folder: Path, formats: list[str], given: list[Sample], wanted: list[Verdict]
) -> list[Row]:
    _sum(folder)
    rows, frame = [], run.cell.frame
    for runtime, form in exported.RUNTIMES.items():
        if form in formats:
            found = exported.load(folder, runtime=runtime)
            rows += check.detected(f"{form} in {runtime}", given, wanted, found)
    if "stablehlo" in formats and frame.plain:
        rows += stablehlo.whole(folder, given[1], wanted[1], frame)
    if "onnx" in formats:
        rows += onnx_files.whole(folder, given, wanted, frame)
    check.check(rows)
    return rows


def _sum(folder: Path) -> None:
    """Writes SHA256SUMS, as sha256sum does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{exported.digest(path)}  {path.relative_to(folder).as_posix()}\n"
        for path in files
        if path.name != SUMS
    ]
    write_whole(folder / SUMS, "".join(lines))


@contextlib.contextmanager
def _beside(output: Path, overwrite: bool) -> Iterator[Path]:
    """A folder that gets the name `output` at the end, or goes."""
    asked, output = output, output.resolve()  # what a link leads to is replaced, not the link
    there = output.exists()
    if there and not (overwrite and (output / FACTS).exists()):
        again = "--overwrite" if (output / FACTS).exists() else "another folder"
        raise UsageError(f"--output={asked}: is there already; {again}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise DataError(f"--output={asked}: cannot be made: {error.strerror}") from error
    try:
        yield folder
        os.chmod(folder, 0o755)
        old = folder.with_name(f"{folder.name}.old")
        if there:
            replace(output, old)
        replace(folder, output)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise DataError(f"--output={asked}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
