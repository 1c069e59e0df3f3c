"""What a cell needs of memory and disk: told by a dry run, refused where it cannot be had.

Estimates are of listings and shapes alone. Nothing is refused by an estimate: where one comes near
to what is free, the compiler is asked for the programs' own needs.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cae_jax import data, files
from cae_jax.data import listing
from cae_jax.runs import build
from cae_jax.runs.config import Config
from cae_jax.runs.train import whole
from cae_jax.scoring import compilation, patches, scorer
from cae_jax.scoring.options import Windows
from cae_jax.training import crops, fit, members, memory
from cae_jax.training.schedule import KINDS, Training
from cae_jax.types import DataError, Fit, State, Steps, UsageError, height_width

# Fitted to the peaks of six runs on a CPU, which they meet within a fifth.
_PACKAGES = 350_000_000  # bytes that Python and packages take, where the system cannot be asked
COMPILER = 500e6  # bytes that XLA and the plots take beside what they work on
_ACTIVATIONS = 1.2  # of a whole batch, which validation takes at once
_STATES = 4  # before a step, after it, its gradients, a copy while that is saved


class Sizes(NamedTuple):
    """What one cell takes, in bytes where nothing else is said."""

    parameters: int  # how many
    state: int  # a checkpoint: parameters, what the optimiser keeps of each, a key and a counter
    images: int  # with their masks
    masks: int  # of these, the masks
    training: int  # beside the images, at its peak
    scoring: int  # likewise
    copies: int  # of training: features of the images, those of a fold, images made even
    inspecting: int  # of scoring: what is computed of one image


def counts(config: Config) -> listing.Counts:
    """Returns the counts of a cell's category, or of all of a joint one."""
    c, each = config, []
    for name in c.parts:
        found = listing.count(c.dataset, c.data_dir, name, c.names)
        taken = data.n_taken(name, found.n_train, c.train_images)
        data.check_enough(name, taken, c.validation_fraction)
        each.append(found._replace(n_train=taken))
    held = sum(data.n_held_out(found.n_train, c.validation_fraction) for found in each)
    build.check_threshold(c, held + sum(found.n_test for found in each))
    return listing.Counts(*(sum(numbers) for numbers in zip(*each, strict=True)))


def sizes(config: Config, counts: listing.Counts) -> Sizes:
    """Returns what a cell takes; memory is estimated for a CPU."""
    c, method = config, config.build()
    pixels, n = c.n_pixels, counts.n_train + counts.n_test
    held = data.n_held_out(counts.n_train, c.validation_fraction)
    state, variables = build.shapes(c, counts.n_train - held)
    if isinstance(method.learn, Steps) and state:
        training = _steps(c, method.learn, state)
    else:
        training = _STATES * _bytes(variables)
    copies = _copies(c, counts.n_train - held)
    if c.folds:  # a fold's model beside the run's
        training += _bytes(variables)
    judged = counts.n_test + held
    maps = 4 * pixels * (len(method.distances) + c.channels) * judged
    if isinstance(w := c.options, Windows):
        windows = patches.number(c.inspected_size, w.stride)
        one = 4 * windows * 4 * w.patch_size**2 * c.channels
    else:
        one = 4 * _elements(
            jax.make_jaxpr(method.inspect)(whole(method, variables), _image(c)).jaxpr
        )
    masks = pixels * counts.n_test
    images = 4 * pixels * c.channels * n + masks
    parameters = variables.get("params", variables)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))
    of_all = round(training) + copies, 2 * maps + one
    return Sizes(count, _bytes(state or variables), images, masks, *of_all, copies, one)


def _copies(c: Config, n: int) -> int:
    """Bytes of what is learned from beside the images, n of them, on a CPU."""
    learn, images = c.build().learn, 4 * n * c.n_pixels * c.channels
    even = images if c.intensity != "none" else 0
    if not isinstance(learn, Fit):
        return even
    examples = 4 * n * math.prod(features) if (features := _features(c)) else 0
    if not 0 < examples <= fit.HELD:  # learned from the images themselves
        return even + (images if c.folds else 0)
    return even + (2 if c.folds else 1) * examples


def _features(c: Config) -> tuple[int, ...]:
    """The shape of an image's features; () of a method that has none apart."""
    method = c.build()
    assert isinstance(method.learn, Fit)
    if not method.learn.seen:
        return ()
    frozen = {"frozen": dict(method.frozen)}
    return jax.eval_shape(method.learn.seen.look, frozen, _image(c)).shape[1:]


def _image(c: Config, n: int = 1) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((n, *height_width(c.image_size), c.channels), np.float32)


def _steps(c: Config, learn: Steps, state: State) -> float:
    """Bytes of a training step, at its peak."""
    t, p = c.options, learn.patch_size
    patch = jax.ShapeDtypeStruct((1, p, p, c.channels), np.float32)
    made = jax.make_jaxpr(learn.validate)(state.variables, patch)
    activations = 4 * _elements(made.jaxpr)
    batch = 4 * t.batch_size * p**2 * c.channels
    return batch + _ACTIVATIONS * activations * t.batch_size + _STATES * _bytes(state)


@compilation.in_32_bits()
def check(folder: Path, config: Config, size: Sizes | None = None) -> None:
    """Refuses what cannot be had, before an image is read.

    Args:
      folder: that the cell's checkpoints are written to; it need not be there.
      config: the cell's.
      size: what it takes, see `sizes`, where that is known.

    Raises:
      DataError: its images do not fit where they would lie, a checkpoint not where it is written,
        or what the compiler says that a program needs not into memory.
    """
    c, size = config, size or sizes(config, counts(config))
    images = _check_images(c, size)
    if (free := shutil.disk_usage(there(folder)).free) < size.state:
        raise DataError(
            f"{folder}: no space left for a checkpoint of {amount(size.state)}, {amount(free)} "
            "are free"
        )
    if 2 * max(size.training - size.copies, size.inspecting) < memory.free():
        return
    for what, program, beside in _programs(c, size):
        memory.check(program, f"{c.category}: {what}", beside + images)


def _check_images(c: Config, size: Sizes) -> int:
    """The bytes at least that images take in memory; raises DataError where they do not fit."""
    least = size.images - size.masks
    if least > _room(least, c.images_in) and not _resized(c):
        least //= 4  # kept as whole numbers of 8 bits
    aside, room = files.in_a_file(least, c.images_in), _room(least, c.images_in)
    if least <= room:
        return 0 if aside else least // 4
    at = files.folder_of_arrays() if aside else "memory"
    other = (
        "TMPDIR=FOLDER names another folder" if aside else "--images_in=disk keeps them in a file"
    )
    raise DataError(
        f"{c.category}: images of {amount(least)} do not fit into {at}, {amount(room)} are free: "
        f"a smaller --image_size needs less, {other}"
    )


def _room(size: int, held: str) -> int:
    """Bytes that are free where images of so many would lie."""
    if files.in_a_file(size, held):
        return shutil.disk_usage(files.folder_of_arrays()).free
    return files.free_memory()


def _resized(c: Config) -> bool:
    """Whether the first image is, by its header; True where it cannot be told."""
    if c.dataset != "folder":
        return True
    with contextlib.suppress(DataError, UsageError):
        return c.frame.kept(listing.first_size(c.data_dir, c.parts[0], c.names)) is None
    return True


def _programs(c: Config, size: Sizes) -> Iterator[tuple[str, Any, int]]:
    """The large programs of a run, compiled, what they do, and the bytes of what they are given."""
    method, key = c.build(), jax.random.key(0, impl="rbg")
    learn, variables = method.learn, build.shapes(c, 1)[1]
    if isinstance(learn, Fit):
        shape = _features(c) or _image(c).shape[1:]
        n = max(1, size.copies // (4 * math.prod(shape) * (2 if c.folds else 1)))
        given = size.copies if not files.in_a_file(size.copies) else 0
        how = learn.seen.fit if learn.seen and _features(c) else learn.fit
        yield "the fit", fit.program(how, key.aval, (n, *shape)), given
    else:
        yield "a training step", _step(c, learn), size.state
    call: Any = build.scoring_call(c, all_distances=True)
    images = _image(c, scorer.default_batch_size())
    program = call.lower(whole(method, variables), images).compile()
    yield "scoring an image", program, _bytes(variables)


def _step(c: Config, learn: Steps) -> Any:
    """The compiled training step of one member on the first device."""
    t: Training = c.options
    kind = t.augment if t.augment in KINDS else "none"
    drawn = crops.draw(_image(c).shape, learn.patch_size, t.batch_size, (0, 0), kind)
    state = jax.eval_shape(learn.init, jax.random.key(0, impl="rbg"))
    step: Any = members.compile_step(learn)
    return step.lower(state, _image(c), drawn).compile()


def there(folder: Path) -> Path:
    """Returns the folder, or the nearest one above it that is there."""
    return next(p for p in (folder, *folder.absolute().parents) if p.exists())


def disk(c: Config, size: Sizes) -> int:
    """Returns the bytes of a cell's checkpoints at most: the last, the best, one being written."""
    if not isinstance(t := c.options, Training):
        return size.state
    return size.state * min(t.keep + 2, -(-t.epochs // t.checkpoint_every) + 1)


def _elements(jaxpr: Any) -> int:
    """Elements of all that a program makes of its inputs, but for what XLA fuses away."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", None) for value in eqn.params.values()]
        inner = [getattr(each, "jaxpr", each) for each in inner if each is not None]
        if inner:
            total += sum(map(_elements, inner))
        elif eqn.primitive.name in ("conv_general_dilated", "dot_general", "reduce_window_max"):
            total += sum(math.prod(out.aval.shape) for out in eqn.outvars)
    return total


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * _width(x) for x in jax.tree.leaves(tree))


def _width(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of an element; a key is two or four words."""
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 16
    return leaf.dtype.itemsize


def peak_bytes() -> int:
    """Returns the most bytes that this process has held so far: at first Python and packages.

    Windows has no such question in Python: the answer there is what these are elsewhere.
    """
    try:
        import resource
    except ImportError:
        return _PACKAGES
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, on a Mac in bytes
    return peak * (1 if sys.platform == "darwin" else 1024)


def amount(n: float) -> str:
    """Returns bytes in words: 3.2 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n / 1e3:.3g} kB"
