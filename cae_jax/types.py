"""What travels between the rooms: images of a category, a method, its state, its scores, errors."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, Union

import numpy as np

if TYPE_CHECKING:  # what only reads or judges scores needs no JAX
    import jax

# Shapes: B images, N patches, H x W pixels, C channels (1 or 3), p the side of a patch.
Array: TypeAlias = Union["jax.Array", np.ndarray]
Size: TypeAlias = int | tuple[int, int]  # a square's side, or (height, width), in pixels
A = TypeVar("A", "jax.Array", np.ndarray)
Variables: TypeAlias = dict[str, Any]  # a Flax variable collection: "params", maybe "batch_stats"
Metrics: TypeAlias = dict[str, "jax.Array"]  # name -> scalar

GOOD = "good"  # the defect kind of an image without a defect
_SHOWN = 20  # names beside the nearest ones


class CaeError(Exception):
    """What the user can mend: shown as one line, without a traceback; exit code 1."""

    exit_code = 1


class UsageError(CaeError):
    """A flag or argument that cannot work, found before anything is computed; exit code 2."""

    exit_code = 2


class WeightsError(UsageError):
    """Pretrained weights that are not installed, and no file of them was named."""


class DataError(CaeError):
    """A file or folder that cannot be used; the message names it; exit code 1."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """Returns the error for a `name` not among `known`: the nearest names, then those there are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hints = [f"did you mean {' or '.join(near)}?"] if near else []
    if not near or len(known) <= _SHOWN:
        hints.append(f"known: {', '.join(known)}")
    return UsageError(f"unknown {what} {name!r}: {' '.join(hints)}")


def not_installed(what: str, module: str | None, extra: str) -> UsageError:
    """Returns the error for `what` that needs a module of a package of requirements-`extra`.txt."""
    return UsageError(
        f"{what} needs the package {(module or '').partition('.')[0]}, which is not installed: "
        f"pip install -r requirements-{extra}.txt, or cae_jax[{extra}]"
    )


def height_width(size: Size) -> tuple[int, int]:
    """Returns (height, width) of a square's side, or of what has both already."""
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height), int(width)


def size_of(height: int, width: int) -> Size:
    """Returns a size as --image_size takes it: of a square its side."""
    return height if height == width else (height, width)


def size_text(size: Size) -> str:
    """Returns a size as --image_size has it: 256, or 256x512, the height first."""
    height, width = height_width(size)
    return str(height) if height == width else f"{height}x{width}"


class LeftOut(NamedTuple):
    """A file that was found but is not used, and why."""

    path: str
    cause: str


class Duplicate(NamedTuple):
    """An image that repeats another one of its category, see `data.duplicates`."""

    path: str
    like: str  # the path of the image that it repeats
    kind: str  # "exact": equal pixels once decoded; "near": the same photograph
    similarity: float  # in (0, 1], 1 for exact


class Region(NamedTuple):
    """A defect of a test image, of which it is enough to find a part, see `data.regions`."""

    pixels: np.ndarray  # int64 [k]: its pixels, as indices into all H * W of the image
    saturation: float  # in (0, k]: how many of them are enough


class Images(Protocol):
    """Images float32 [n, H, W, C] in [0, 1]: an array of them, or what gives one of those that are
    asked for by an index, so that the whole of them need not be in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C)."""

    def __len__(self) -> int:
        """How many."""

    def __iter__(self) -> Iterator[Any]:
        """One after the other, float32 [H, W, C]."""

    def __getitem__(self, index: Any, /) -> Any:
        """As of an array."""


class Levels(np.lib.mixins.NDArrayOperatorsMixin):
    """Images as the whole numbers that their files hold, in a quarter or half of the memory: what
    is taken out of them is a value over that of white, to the bit as if it had been divided first.

    They index as an array does. For all else that NumPy knows they become an array of all images.
    """

    dtype = np.dtype(np.float32)  # of what is taken out

    def __init__(self, values: np.ndarray, white: int) -> None:
        """Takes values uint8 or uint16 [n, H, W, C], from 0 to `white`."""
        self.values, self.white = values, white

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C)."""
        return self.values.shape

    def __len__(self) -> int:
        """How many images."""
        return len(self.values)

    def __iter__(self) -> Iterator[np.ndarray]:
        """One after the other."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Returns the images float32 that an array would."""
        return divided(self.values[index], self.white)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns all of them."""
        return self[:].astype(dtype or np.float32, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **how: Any) -> Any:
        """Applies a function of NumPy, an operator among them, to the array of all images."""
        given = (each[:] if isinstance(each, Levels) else each for each in inputs)
        return getattr(ufunc, method)(*given, **how)

    def __getattr__(self, name: str) -> Any:
        """Returns what else an array has, of the array of all images."""
        if name.startswith("_") or name in ("values", "white"):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self[:], name)


def divided(values: np.ndarray, white: int) -> np.ndarray:
    """Returns numbers over the one of white, float32: the one way to these values."""
    return np.divide(values, np.float32(white), dtype=np.float32)


class Counted:
    """Images with what of each counts as a last channel, see `with_counts`, made as asked for."""

    def __init__(self, images: Images, counts: Sequence[np.ndarray]) -> None:
        """Takes n images, and of each a bool [H, W]."""
        self.images, self.counts = images, counts

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W, C + 1)."""
        *before, channels = self.images.shape
        return (*before, channels + 1)

    def __len__(self) -> int:
        """How many images."""
        return len(self.counts)

    def __iter__(self) -> Iterator[np.ndarray]:
        """One after the other."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Returns the images that an array would."""
        which = np.arange(len(self))[index]
        counts = [self.counts[i] for i in np.atleast_1d(which)]
        chosen = np.stack(counts) if counts else np.zeros((0, *self.images.shape[1:3]), bool)
        return with_counts(self.images[index], chosen.reshape(*which.shape, *chosen.shape[1:]))


@dataclasses.dataclass(frozen=True)
class Split:
    """One category: images to learn from, good images held out, and images to judge.

    Images are float32 [n, H, W, C] in [0, 1], or `Levels` that give such. Readers leave
    `validation` empty; `data.hold_out` moves images there from `train`. Paths are relative, with
    forward slashes, in sorted order.
    """

    dataset: str
    category: str
    train: Images
    train_paths: tuple[str, ...]
    validation: Images
    validation_paths: tuple[str, ...]
    test: Images
    test_paths: tuple[str, ...]
    kinds: tuple[str, ...]  # per test image: GOOD or its defect kind
    masks: np.ndarray  # bool [n_test, H, W]: defective pixels; all False for a good image
    has_mask: np.ndarray  # bool [n_test]: True for good images and defects with a mask file
    test_sizes: tuple[tuple[int, int], ...]  # (H, W) of each test image's file, in pixels
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()  # found by `data.hold_out`, as are
    groups: tuple[int, ...] = ()  # per image of `train`: equal for those that repeat each other
    layout: str = ""  # of the folder, see `data.layouts`; "" of other data sets
    notes: tuple[str, ...] = ()  # how files were taken, where it could be otherwise
    bit_depth: str = "auto"  # by which the white of images was taken, see `data.frame`
    # by path, bool [H, W]: the pixels that count; {} where all of all images do
    counts: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    # by a defective test image's path; {} where no saturation of any is known
    regions: Mapping[str, tuple[Region, ...]] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        """One line, without the pixels and paths."""
        n = [len(each) for each in (self.train, self.validation, self.test)]
        return (
            f"<Split {self.category!r} of {self.dataset}: {n[0]} to learn from, {n[1]} held out, "
            f"{n[2]} to judge, {list(self.train.shape[1:])}>"
        )

    def counted(self, paths: Sequence[str]) -> np.ndarray | None:
        """Returns which pixels of these images count, bool [n, H, W]; None where all do."""
        if not self.counts:
            return None
        return np.stack([self.counts[path] for path in paths]) if len(paths) else self.masks[:0]

    def seen(self, images: Images, paths: Sequence[str]) -> Images:
        """Returns images [n, H, W, C] as a scoring call takes them: where not all of them counts,
        with a last channel more, 1 where it does and else 0."""
        return Counted(images, [self.counts[path] for path in paths]) if self.counts else images

    @property
    def labels(self) -> np.ndarray:
        """int64 [n_test]: 0 for a good test image, 1 for a defective one."""
        return np.array([kind != GOOD for kind in self.kinds], dtype=np.int64)


def with_counts(images: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns images [..., H, W, C] and what of them counts, bool [..., H, W], as one array
    float32 [..., H, W, C + 1]."""
    return np.concatenate([images, counts[..., None].astype(np.float32)], axis=-1)


class State(NamedTuple):
    """All that training changes, as one pytree: what a checkpoint holds."""

    step: jax.Array  # int32 []: steps done
    key: jax.Array  # typed PRNG key of the member; folded with `step`, never split away
    variables: Variables
    opt_state: Any


class Reconstruction(NamedTuple):
    """What a model makes of patches: the output, and what it says about itself."""

    output: jax.Array  # float32 [N, p, p, C], the scale of the input
    # "penalty" [N] is added to the loss of each patch; "..._used", bool [N, K], says which of K
    # parts a patch made use of, and metrics count those used by any patch; {} for most models
    aux: dict[str, jax.Array]


class Steps(NamedTuple):
    """Learning by gradient steps on crops: pure functions, not jitted.

    Random numbers come from `state.key`, folded with `state.step`: two starts from one state take
    the same step. Metrics are scalars: floats are averaged over an epoch, of integers, which
    count, the last stands.
    """

    init: Callable[[jax.Array], State]  # key -> State, whatever is in it
    step: Callable[[State, jax.Array], tuple[State, Metrics]]  # crops [N, p, p, C]
    validate: Callable[[Variables, jax.Array], Metrics]  # on crops, nothing updated; {} for none
    patch_size: int  # p, in pixels
    # the metric whose lowest value, of `validate` where that has it, marks the best checkpoint;
    # "" takes the last one, as adversarial training does
    best_by: str = "loss"


class Seen(NamedTuple):
    """A `Fit` and its `inspect` in two parts: features, that ask for an image alone, and the rest.

    So features of an image are computed once where it is learned from several times.
    """

    look: Callable[[Variables, jax.Array], jax.Array]  # images [B, H, W, C] -> float32 [B, ...]
    fit: Callable[[jax.Array, jax.Array], Variables]  # (key, features [n, ...]); jitted
    judge: Callable[
        [Variables, jax.Array], Evidence
    ]  # of features [B, ...]: `inspect` after `look`


class Fit(NamedTuple):
    """Learning in one pass over the good images: closed forms, mixtures, memories."""

    # (key, images [n, H, W, C]) -> Variables; memory bounded whatever n is; jitted
    fit: Callable[[jax.Array, jax.Array], Variables]
    seen: Seen | None = None  # the same in two parts, where features take long


class Evidence(NamedTuple):
    """What a method says of images [B, H, W, C]; an image's never depends on its batch."""

    maps: Mapping[str, jax.Array]  # by distance, float32 [B, h, w]: larger is worse
    # by distance, float32 [B]: where a paper's image score is no reduction of its map
    numbers: Mapping[str, jax.Array] = {}
    reconstruction: jax.Array | None = None  # float32 [B, H, W, C], the scale of the input


class Method(NamedTuple):
    """How to learn from good images, and what to say of others; `methods.build` makes one.

    Images and crops are float32 in [0, 1], or made even by `scoring.intensity`: then about 0.45,
    a few of them above 1, or below 0.
    """

    learn: Steps | Fit
    inspect: Callable[[Variables, jax.Array], Evidence]  # of images [B, H, W, C]
    distances: tuple[str, ...]  # names of the maps; the first is the default of --distance
    # pretrained weights: the collection "frozen" of the variables that `inspect` is given. They
    # are not saved; their hash is part of a run's identity
    frozen: Mapping[str, Any] = MappingProxyType({})


class Scores(NamedTuple, Generic[A]):
    """What scoring makes of images [B, H, W, C], on a device or the host: arrays lead with B."""

    distances: dict[str, A]  # by name, float32 [B]: the image's score, larger is worse
    residuals: dict[str, A]  # by name, float32 [B, H, W]: the map the distance comes from
    reconstruction: A | None  # float32 [B, H, W, C], the scale of the input
