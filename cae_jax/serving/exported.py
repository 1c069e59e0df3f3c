"""A folder that `experiments.export` wrote, loaded without any of the code that trained the model.

Every file but the card is checked against SHA256SUMS before it is used. The model runs in JAX, from
StableHLO, or in ONNX Runtime, which then needs no JAX at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cae_jax.data import images
from cae_jax.data.frame import Area, Frame, Hole
from cae_jax.evaluation import verdict
from cae_jax.reports import rules
from cae_jax.reports.run_files import EXPORTED, FACTS, SUMS
from cae_jax.serving.detector import MANY, Detector, Model, claim_jax
from cae_jax.types import DataError, Scores, Size, UsageError, not_installed, unknown_name

FORM = 1  # of model.json
CARD = "README.md"  # words alone: it may be written into
RUNTIMES = {"jax": "stablehlo", "onnxruntime": "onnx"}  # -> the format that it runs
_BLOCK = 2**20  # bytes
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")  # of SHA256SUMS

Call = Callable[[np.ndarray], Scores[np.ndarray]]


def load(
    folder: str | os.PathLike[str],
    percent: int | None = None,
    false_alarms: float | None = None,
    threshold: str | None = None,
    runtime: str | None = None,
) -> Detector:
    """Returns an exported folder as a detector.

    Args:
      folder: what `experiments.export` wrote.
      percent: see `serving.trained.open_run`.
      false_alarms: see there.
      threshold: see there.
      runtime: "jax" or "onnxruntime"; None takes the first of them that the folder has a file for.

    Raises:
      UsageError: a runtime that the folder has no file for or that is not installed, a percent or
        a rate that cannot be.
      DataError: a file is missing, altered, or of another version.
    """
    root = Path(folder)
    version = check(root)
    card = _card(root / FACTS)
    name = _runtime(root, runtime, card["formats"])
    if own := percent is None and false_alarms is None and threshold is None:
        percent, false_alarms = card["asked"]["percent"], card["asked"]["false_alarms"]
        threshold = card["asked"].get("threshold")
    judge = _judge(root, card, percent, false_alarms, threshold)
    if own and judge.threshold.value != card["threshold"]:
        raise DataError(f"{root / FACTS}: its threshold does not follow from its scores")
    for said in rules.warnings(judge.threshold):
        print(f"warning: {card['title']}: {said}", file=sys.stderr, flush=True)
    call = (_jax if name == "jax" else _onnxruntime)(root, card)
    given: dict[str, Any] = {"folder": os.path.abspath(folder), "runtime": name}
    given |= {"percent": percent, "false_alarms": false_alarms, "threshold": threshold}
    together = name == "jax" and card["stablehlo"]["batch"] == "together"  # or a batch is no gain
    model = _model(root, card, version, name)
    return Detector(model, judge, call, (load, given), MANY if together else 1)


def _card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_bytes())
        form = card["form"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: is not what experiments.export writes") from error
    if form != FORM:
        raise DataError(f"{path}: of form {form}, this version reads {FORM}")
    return card


def identity_of(detector: Detector) -> dict[str, Any]:
    """Returns whose scores a folder's detector gives, as JSON's plain values: two of one identity
    give the same scores and verdicts."""
    about = {"weights": detector.model.version, "runtime": detector.model.runtime}
    return about | {"threshold": detector.threshold.value}


def _model(root: Path, card: dict[str, Any], version: str, runtime: str) -> Model:
    return Model(
        title=card["title"],
        category=card["category"],
        method=card["method"],
        version=version,
        looks=_frame(root, card),
        image_size=_size(card["image_size"]),
        channels=card["channels"],
        distance=card["distance"],
        opening=card["opening"],
        scale=card["scale"],
        runtime=runtime,
        card=card,
    )


def _judge(
    root: Path,
    card: dict[str, Any],
    percent: int | None,
    false_alarms: float | None,
    threshold: str | None,
) -> verdict.Judge:
    scores = card["scores"]
    return verdict.asked(
        str(root),
        np.array(scores["test_good"], np.float64),
        np.array(scores["unseen"], np.float64),
        card["operating_points"],
        scores["source"],
        card["false_alarms"],
        percent,
        false_alarms,
        threshold,
        card.get("threshold_rule", ""),
        np.array(scores.get("test_defective", []), np.float64),
    )


def is_one(folder: Path) -> bool:
    """Returns whether a folder is an exported one, or has been one: it may have lost a file."""
    return any((folder / name).exists() for name in EXPORTED)


def check(root: Path) -> str:
    """Returns an exported folder's version, 16 hexadecimal digits that follow from its files.

    The card is for people, who may write into it: that it is another is said, no more. Raises
    DataError where another file is missing or is not what was exported; it names the file.
    """
    try:
        sums = (root / SUMS).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{root / SUMS}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{root / SUMS}: is no list of sums") from error
    if not sums.endswith("\n"):
        what = "is cut short, or no list of sums" if sums else "is empty"
        raise DataError(f"{root / SUMS}: {what}")
    listed = set()
    for line in sums.splitlines():
        if not (of_file := _LINE.fullmatch(line)):
            raise DataError(f"{root / SUMS}: is no list of sums: {line[:80]!r}")
        wanted, name = of_file.groups()
        listed.add(name)
        try:
            _check_file(root / name, wanted)
        except DataError as error:
            if name != CARD:
                raise
            print(f"warning: {error}", file=sys.stderr, flush=True)
    there = [root / FACTS, *root.glob("[!.]*.png")]  # masks are the only pictures there
    there += (p for form in RUNTIMES.values() for p in (root / form).glob("[!.]*"))
    for path in sorted(there):
        name = path.relative_to(root).as_posix()
        if name not in listed:
            raise DataError(
                f"{root / SUMS}: does not list {name}" if path.exists() else f"{path}: is missing"
            )
    return hashlib.sha256(sums.encode()).hexdigest()[:16]


def _check_file(path: Path, wanted: str) -> None:
    """Raises DataError for a file that is missing or of another SHA-256."""
    try:
        found = digest(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if found != wanted:
        raise DataError(
            f"{path}: was altered since it was exported: its SHA-256 is {found}, "
            f"{SUMS} has {wanted}"
        )


def digest(path: Path) -> str:
    """Returns a file's SHA-256, hexadecimal; raises OSError where it cannot be read."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def _runtime(root: Path, asked: str | None, formats: list[str]) -> str:
    if asked is not None and asked not in RUNTIMES:
        raise unknown_name("runtime", asked, RUNTIMES)
    for name, needed in RUNTIMES.items():
        if asked in (None, name) and needed in formats:
            return name
    needed = RUNTIMES.get(asked or "", "stablehlo or onnx")
    raise UsageError(f"runtime={asked!r}: {root} has no {needed}, only {', '.join(formats)}")


def _jax(root: Path, card: dict[str, Any]) -> Call:
    claim_jax()
    import jax
    from jax import export

    from cae_jax.scoring import compilation

    compilation.check_devices()
    compilation.use_cache()
    path, weights_of = (root / "stablehlo" / name for name in ("batch.bin", "weights.npz"))
    wrote = card["stablehlo"]["jax"]
    with _told(
        path,
        f"is damaged: jax {wrote}, which wrote it, cannot read it"
        if wrote == jax.__version__
        else f"written by jax {wrote}, is not read by jax {jax.__version__}",
        'runtime="onnxruntime", or export the run again',
    ):
        exported = export.deserialize(bytearray(path.read_bytes()))
        program = jax.jit(exported.call)
    with (
        _told(weights_of, "is no archive of weights", "export the run again"),
        compilation.in_32_bits(),
        open(weights_of, "rb") as file,  # which np.load leaves open where it is no archive
        np.load(file, allow_pickle=False) as archive,
    ):
        weights = jax.device_put({name: archive[name] for name in archive.files})

    def call(images: np.ndarray) -> Scores[np.ndarray]:
        with compilation.in_32_bits():
            found = jax.device_get(program(weights, images))
        return _scores(card, found["score"], found["map"], found.get("reconstruction"))

    return call


def _onnxruntime(root: Path, card: dict[str, Any]) -> Call:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise not_installed("runtime='onnxruntime'", error.name, "export") from error
    except ImportError as error:  # a library of the system that it is built on
        raise UsageError(
            f"runtime='onnxruntime': is installed and cannot be used: {error}"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about graphs, for those who write them
    threads = os.environ.get("OMP_NUM_THREADS", "")  # which it does not read itself
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0  # 0: of all cores
    sessions = {}
    for name in ("model", "batch"):
        path = root / "onnx" / f"{name}.onnx"
        with _told(path, "is not read by onnxruntime", "export the run again"):
            sessions[name] = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )

    def call(images: np.ndarray) -> Scores[np.ndarray]:
        session = sessions["model" if len(images) == 1 else "batch"]
        score, found = session.run(["score", "map"], {"image": images})
        return _scores(card, score, found, None)

    return call


@contextlib.contextmanager
def _told(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Raises DataError for whatever the block raises: other libraries' files fail in as many ways
    as there are."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        cause = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: {what} ({cause}); {remedy}") from error


def _frame(root: Path, card: dict[str, Any]) -> Frame:
    """What images are brought to; a folder of before says less of it."""
    own = (card.get("bit_depth", "auto"), card.get("background", "none"))
    whole = Frame.of(_size(card["image_size"]), card["channels"], *own)
    found = card.get("frame")
    if found is None:
        return whole
    ignored = found.get("ignore")  # older folders do not say
    areas: list[Area | Hole] = [Hole(tuple(ignored))] if ignored else []
    for flag in found["masks"]:
        white = images.decode(root / f"{flag}.png", Frame(None, 1))[..., 0] >= 0.5
        areas.append(Area(flag, white if flag == "roi" else ~white))
    roi = tuple(found["roi"]) if found["roi"] else None
    return dataclasses.replace(whole, resize=found["resize"], roi=roi, areas=tuple(areas))


def _size(found: int | list[int]) -> Size:
    """A size as JSON has it: a side, or [height, width]."""
    return found if isinstance(found, int) else (found[0], found[1])


def _scores(
    card: dict[str, Any], score: np.ndarray, found: np.ndarray, made: np.ndarray | None
) -> Scores[np.ndarray]:
    return Scores({card["distance"]: score}, {card["distance"]: found}, made)
