"""A trained model as an object that judges images, for use from Python.

It says what a model is and what it says of an image, whether the model is a run in its workdir
(`serving.trained`) or an exported folder (`serving.exported`). Neither is imported here.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cae_jax.data import images
from cae_jax.data.frame import Frame
from cae_jax.evaluation import finite
from cae_jax.evaluation.thresholds import Threshold
from cae_jax.evaluation.verdict import Judge
from cae_jax.types import CaeError, DataError, Scores, Size, UsageError, height_width

MANY = 8  # images of the larger of the two batches that calls are made in


class Model(NamedTuple):
    """What a detector is of, in words and numbers."""

    title: str  # "hazelnut, gaussian, seed 0"
    category: str
    method: str
    version: str  # hexadecimal: of an exported folder's content; "" of a run in its workdir
    image_size: Size  # to which an image is stretched
    channels: int  # 1 or 3
    distance: str  # the name of what its scores are
    opening: int  # of masks, see `Judge.mask`
    scale: float  # the value of a map at the top of the one color scale; NaN where not known
    runtime: str  # "jax" or "onnxruntime"
    card: dict[str, Any]  # an exported folder's model.json; {} of a run
    looks: Frame | None = None  # what images are brought to; None: stretched to `image_size`

    @property
    def frame(self) -> Frame:
        """What images are brought to."""
        return self.looks or Frame(self.image_size, self.channels)


class Verdict(NamedTuple):
    """What a detector says of one image."""

    defective: bool  # distance > threshold.value
    distance: float  # by the run's --distance
    threshold: Threshold
    residual: np.ndarray  # float32 [H, W]: the map that the distance comes from
    reconstruction: np.ndarray | None  # float32 [H, W, C] in [0, 1]; of a method that makes one
    p_value: float  # among the unseen good images, see `thresholds.p_values`; NaN without any
    mask: np.ndarray  # bool [H, W]: where the defect is, by the minimum-area threshold

    def __repr__(self) -> str:
        """One line, without the pixels."""
        called, over = ("defective", ">") if self.defective else ("good", "<=")
        height, width = self.residual.shape
        return (
            f"<Verdict {called}: {self.distance:.6g} {over} {self.threshold.value:.6g}, p = "
            f"{self.p_value:.3g}, {int(self.mask.sum())} of {height} x {width} pixels in the mask>"
        )


@dataclasses.dataclass(frozen=True, eq=False)  # by identity: it may be a key of a cache
class Detector:
    """A model with what judges its scores; `cae_jax.load` makes one.

    It belongs to the process that loaded it: JAX's and ONNX Runtime's threads do not live on in a
    forked one. It can be pickled, and is loaded again from its folder where it is unpickled.
    """

    model: Model
    judge: Judge
    # images float32 [B, S, T, C (+ 1)] in [0, 1] -> the scores by `model.distance`, on the host
    call: Callable[[np.ndarray], Scores[np.ndarray]]
    again: tuple[Callable[..., Detector], dict[str, Any]]  # what loads it, and its arguments
    many: int = MANY  # images of a call's larger batch; 1 where a batch is no faster
    # one image float32 [H, W, C] of another size than the model's -> its scores, where that is so
    strips: Callable[[np.ndarray], Scores[np.ndarray]] | None = None
    process: int = dataclasses.field(default_factory=os.getpid)

    @property
    def threshold(self) -> Threshold:
        """Above which a distance is called defective."""
        return self.judge.threshold

    def __repr__(self) -> str:
        """One line: what it is of and where that lies, what it takes, and its threshold."""
        m, value = self.model, self.threshold.value
        where = self.again[1].get("workdir") or self.again[1].get("folder")
        of = " ".join([repr(m.title), f"({m.method})", *([f"in {where}"] if where else [])])
        return f"<Detector {of}: {m.frame}, {m.distance} > {value:.6g} is defective>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles what loads it again."""
        load, arguments = self.again
        return _loaded, (load, arguments)

    def score(self, image: Any, bgr: bool = False) -> Verdict:
        """Judges one image.

        Args:
          image: what `pixels` takes.
          bgr: see `pixels`.

        Raises:
          DataError: the image cannot be used.
          CaeError: its distance or map is not finite, or this process was forked.
        """
        if self.strips:
            frame = dataclasses.replace(self.model.frame, image_size=None)
            pixels = images.from_any(image, frame, bgr)
            if pixels.shape[:2] != self.model.frame.size:
                return self._strip(pixels, _name(image))
        return self.verdicts(self.pixels(image, bgr)[None], [_name(image)])[0]

    def score_batch(self, images: Iterable[Any], bgr: bool = False) -> list[Verdict]:
        """Judges several images, faster than one after the other; raises what `score` raises."""
        images = list(images)
        if not images:
            return []
        if self.strips:  # of any size each
            return [self.score(image, bgr) for image in images]
        pixels = np.stack([self._numbered(i, image, bgr) for i, image in enumerate(images)])
        names = [f"image {i}: {_name(image)}" for i, image in enumerate(images)]
        return self.verdicts(pixels, names)

    def pixels(self, image: Any, bgr: bool = False) -> np.ndarray:
        """Returns an image as the model sees it: float32 [S, T, C] in [0, 1], and where not all of
        a frame counts, a last channel more, 1 where it does.

        Args:
          image: a file, its bytes or a binary stream of them; a PIL image; or an array as
            `data.images.from_array` takes it: [H, W] or [H, W, 1 to 4], of bool, uint8, uint16 or
            float in [0, 1], of NumPy, JAX, PyTorch or whatever else has `__array__` or
            `__dlpack__`.
          bgr: an array's colors are blue, green, red, as OpenCV reads them; nothing else is
            changed.

        Raises:
          DataError: the image cannot be used.
        """
        return images.from_any(image, self.model.frame, bgr, counted=True)

    def verdicts(self, pixels: np.ndarray, names: Sequence[str]) -> list[Verdict]:
        """Judges images as `pixels` returns them, float32 [B, S, S, C].

        They are scored in batches of `many` and of one, so that no more than two shapes are ever
        compiled. `names` are what errors call them. Raises CaeError for an image whose distance or
        map is not finite, and in a forked process.
        """
        if os.getpid() != self.process:
            raise CaeError(
                f"this detector was loaded in process {self.process} and this is process "
                f"{os.getpid()}, forked from it, where its threads do not run: call cae_jax.load "
                "after the fork, or start processes by spawn"
            )
        found: list[Verdict] = []
        for i, n in _batches(len(pixels), self.many):
            batch = pixels[i : i + n]
            if 1 < n < self.many:
                batch = np.concatenate([batch, np.repeat(batch[-1:], self.many - n, axis=0)])
            scores = self.call(batch)
            finite.check_finite(_first(scores, n), names[i : i + n])
            found += self._judged(scores, n, self._counts(batch))
        return found

    def _strip(self, pixels: np.ndarray, name: str) -> Verdict:
        """Judges an image of another size than the model's."""
        assert self.strips
        try:
            scores = self.strips(pixels)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        finite.check_finite(_first(scores, 1), [name])
        return self._judged(scores, 1, np.ones(1, bool))[0]

    def warm_up(self) -> None:
        """Compiles what `verdicts` will need."""
        m = self.model
        for n in {1, self.many}:
            self.call(
                np.full(
                    (n, *height_width(m.image_size), m.channels + m.frame.partial), 0.5, np.float32
                )
            )

    def _numbered(self, i: int, image: Any, bgr: bool) -> np.ndarray:
        try:
            return self.pixels(image, bgr)
        except DataError as error:
            raise DataError(f"image {i}: {error}") from error

    def _counts(self, pixels: np.ndarray) -> np.ndarray:
        """What counts of images as `pixels` gives them, bool [B, S, T] or, of all, [B]."""
        if pixels.shape[-1] == self.model.channels:
            return np.ones(len(pixels), bool)
        return pixels[..., -1] > 0.5

    def _judged(self, scores: Scores[np.ndarray], n: int, counts: np.ndarray) -> list[Verdict]:
        name = self.model.distance
        distances = scores.distances[name][:n]
        defective = self.judge.defective(distances)
        p_values = self.judge.p_values(distances)
        made = scores.reconstruction
        return [
            Verdict(
                bool(defective[i]),
                float(distances[i]),
                self.judge.threshold,
                scores.residuals[name][i],
                None if made is None else made[i],
                float(p_values[i]),
                self.judge.mask(scores.residuals[name][i], self.model.opening) & counts[i],
            )
            for i in range(n)
        ]


_jax_of: list[int] = []  # the process that JAX's threads are in, once there are any


def claim_jax() -> None:
    """Notes that JAX computes in this process.

    Raises UsageError in a fork of a process where it does: it would wait for ever for threads that
    are not there.
    """
    process = os.getpid()
    if _jax_of and _jax_of[0] != process:
        raise UsageError(
            f"JAX was started in process {_jax_of[0]} and does not run in its fork {process}: "
            'start processes by spawn, or load an exported folder with runtime="onnxruntime"'
        )
    _jax_of[:] = [process]


def _batches(n: int, many: int) -> list[tuple[int, int]]:
    """(first, how many) of batches: of `many` while there are, one more if half full, or ones."""
    found = [(i, many) for i in range(0, n - n % many, many)]
    first, left = n - n % many, n % many
    if left > many // 2:
        return [*found, (first, left)]
    return found + [(i, 1) for i in range(first, n)]


def _first(scores: Scores[np.ndarray], n: int) -> Scores[np.ndarray]:
    def cut(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: field[:n] for name, field in fields.items()}

    return Scores(cut(scores.distances), cut(scores.residuals), None)


def _name(image: Any) -> str:
    path = isinstance(image, str | os.PathLike)
    return repr(os.fspath(image)) if path else "the image"


class _Forked:
    """In the place of a detector unpickled in a fork that cannot load it: a pool would wait for
    ever for a worker that dies of what it was sent."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __getattr__(self, name: str) -> Any:
        raise UsageError(self._why)


def _loaded(load: Callable[..., Detector], arguments: dict[str, Any]) -> Any:
    try:
        return load(**arguments)
    except UsageError as error:
        if _jax_of and _jax_of[0] != os.getpid():
            return _Forked(str(error))
        raise
