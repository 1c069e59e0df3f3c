"""The methods: one file each, found by discovery; a fork's own by its dotted name.

A method's file holds `Options`, a frozen dataclass whose fields are its flags (`options.flag`; of
those here it is brought from the folder `options`, which a --help reads without JAX), and
`make(options, size, channels) -> types.Method` for images [B, H, W, channels]: `size` is the side
of square images, or (H, W). A method whose second parameter is called otherwise is for square
images alone, and refused for others. Options that learn by steps are of
`training.schedule.Training`. A flag that the shared records have too, given again, has the method's
own default. Four things more are looked for on `Options`: `label`, what
its runs are called where that is not the method's name; `title`, what tables call them where that
is not the label; `resolved(size)`, the record with what depends on the images' size worked out;
`together(n)`, the record for n categories in one model.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from cae_jax.options import check
from cae_jax.types import Method, Size, UsageError, height_width, size_text, unknown_name

DEFAULT = "autoencoder"


@functools.cache
def names() -> tuple[str, ...]:
    """Returns the built-in methods: the files here that define `make`."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            continue
        tree = ast.parse((Path(__path__[0]) / f"{module.name}.py").read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "make" for node in tree.body):
            found.append(module.name)
    return tuple(sorted(found))


def resolve(name: str) -> ModuleType:
    """Returns the file of a built-in method, or of a fork's by its dotted name.

    Raises UsageError for nothing of that name, or a file without `Options` and `make`.
    """
    path = f"{__name__}.{name}" if name in names() else name
    try:
        if path == name and "." not in name and importlib.util.find_spec(name) is None:
            raise unknown_name("--method", name, names())
        module = importlib.import_module(path)
    except UsageError:
        raise
    except Exception as error:  # importing a fork's file can raise anything
        raise UsageError(f"--method={name}: cannot import {path}: {error}") from error
    for part in ("Options", "make"):
        if not hasattr(module, part):
            raise UsageError(f"--method={name}: {path} has no {part}, so it is no method")
    return module


def options_of(name: str) -> Any:
    """Returns the Options of a method: of a built-in one from the folder `options`, where they are,
    which needs no JAX; else as `resolve`, and raises what that does."""
    apart = f"{__name__}.options.{name}"
    if name in names() and importlib.util.find_spec(apart):
        return importlib.import_module(apart).Options
    return resolve(name).Options


@functools.lru_cache(maxsize=64)
def build(name: str, options: Any, size: Size, channels: int) -> Method:
    """Returns the method; the same arguments give the same one, so that runs share what they
    compile.

    Args:
      name: see `resolve`.
      options: its Options.
      size: of the images.
      channels: 1 or 3.

    Raises:
      UsageError: options that cannot work, or images that are not square, of a method for those.
    """
    check(options)
    make, (height, width) = resolve(name).make, height_width(size)
    if height == width:
        return make(options, height, channels)
    if "size" not in inspect.signature(make).parameters:
        raise UsageError(
            f"--image_size={size_text(size)}: --method={name} is for square images; give one side, "
            "or --tile=SIDE, by which it looks at squares"
        )
    return make(options, (height, width), channels)


@functools.lru_cache(maxsize=64)
def build_tiled(
    name: str, options: Any, tile: int, overlap: int, size: tuple[int, int], channels: int
) -> Method:
    """Returns the method of tiles as one of images of that (height, width), see `tiles.tiled`; the
    same arguments give the same one.

    Raises UsageError as `build`, and for tiles that cannot cover such images.
    """
    from cae_jax.scoring import tiles  # JAX, which a --help need not wait for

    try:
        of_tile = build(name, options, tile, channels)
    except UsageError as error:  # what the method sees is a tile
        said = str(error).replace(f"--image_size={tile}", f"--tile={tile}")
        raise type(error)(said) from error
    return tiles.tiled(of_tile, tile, overlap, size)


def label(name: str, options: Any) -> str:
    """Returns what a run of these options is called, as part of a path."""
    return getattr(options, "label", name)


def title(name: str, options: Any) -> str:
    """Returns what tables and figures call a run of these options."""
    return getattr(options, "title", label(name, options))
