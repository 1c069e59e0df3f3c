"""The architectures: one file per paper, found by discovery; a fork's own by its dotted name.

A model is a Flax module class with fields `channels` and `patch_size` (and options of its own, with
defaults), whose `model(patches, train=False)` maps [N, p, p, C] to a `types.Reconstruction` of the
same shape. A built-in model is the class `Model` of its file; a file without one holds networks of
a method. A model may ask for random keys while it trains; otherwise it gets none.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from cae_jax.options import from_text
from cae_jax.types import UsageError, unknown_name

_OURS = ("channels", "patch_size", "parent", "name")  # fields that are no options of the model


@functools.cache
def names() -> tuple[str, ...]:
    """Returns the built-in models: the files here that define a class `Model`."""
    found = []
    for path in Path(__path__[0]).glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.ClassDef) and node.name == "Model" for node in tree.body):
            found.append(path.stem)
    return tuple(sorted(found))


def resolve(name: str) -> type[nn.Module]:
    """Returns the class of a built-in model, or of a fork's `package.module` or `...:Name`.

    Without `:Name` the module's class `Model` is meant, or the only Flax module it defines.

    Raises:
      UsageError: nothing of that name, or no Flax module.
    """
    if name in names():
        return importlib.import_module(f"{__name__}.{name}").Model
    path, _, attribute = name.partition(":")
    if "." not in path and not attribute and not _importable(path):
        raise unknown_name("model", name, names())
    try:
        module = importlib.import_module(path)
    except Exception as error:  # importing a fork's file can raise anything
        raise UsageError(f"--model={name}: cannot import {path}: {error}") from error
    if attribute or hasattr(module, "Model"):
        found = getattr(module, attribute or "Model", None)
    else:
        here = [c for _, c in inspect.getmembers(module, _is_model) if c.__module__ == path]
        found = here[0] if len(here) == 1 else None
    if not _is_model(found):
        raise UsageError(
            f"--model={name}: {path} has no Flax module {attribute or 'Model'!r}; "
            "name it as package.module:Name"
        )
    return found


def options_of(name: str) -> dict[str, dataclasses.Field[Any]]:
    """Returns a model's own fields by name; raises as `resolve`."""
    fields = dataclasses.fields(resolve(name))
    return {f.name: f for f in fields if f.name not in _OURS and f.init}


def variants(name: str) -> tuple[Mapping[str, str], ...]:
    """Returns the options, as `build` takes them, that make a built-in model another network."""
    return getattr(importlib.import_module(f"{__name__}.{name}"), "VARIANTS", ())


def build(name: str, channels: int, patch_size: int, options: Mapping[str, str]) -> nn.Module:
    """Returns the model, tried on abstract patches so that what cannot work says so at once.

    Args:
      name: see `resolve`.
      channels: 1 or 3.
      patch_size: p, in pixels.
      options: the model's own fields by name, as text.

    Raises:
      UsageError: unknown name or option, a value of another type, a patch size that the model's
        strides do not divide, or a model that is random where it does not train.
    """
    cls, fields = resolve(name), options_of(name)
    values = {}
    for key, text in options.items():
        if key not in fields:
            raise unknown_name(f"option of {name}", key, fields)
        values[key] = from_text(f"{name}: {key}", text, fields[key].default)
    try:
        model = cls(channels=channels, patch_size=patch_size, **values)
    except TypeError as error:
        raise UsageError(f"--model={name}: {error}") from error
    patch = jax.ShapeDtypeStruct((1, patch_size, patch_size, channels), jnp.float32)
    try:
        variables = jax.eval_shape(model.init, jax.random.key(0), patch)
        shape = jax.eval_shape(model.apply, variables, patch).output.shape  # as scoring: no key
    except UsageError:
        raise
    except flax.errors.InvalidRngError as error:
        raise UsageError(
            f"--model={name} asks for a random key (make_rng) when it does not train; "
            "give its mean there"
        ) from error
    except Exception as error:  # whatever the module's own code raises at this size
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"--model={name} cannot take {patch_size}-pixel patches: {cause}"
        ) from error
    if shape != patch.shape:
        raise UsageError(
            f"--model={name} makes {shape[1:]} of a patch {patch.shape[1:]} (--patch_size, "
            "--channels); an autoencoder must give back the shape it takes"
        )
    return model


def _importable(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except (ImportError, ValueError):
        return False


def _is_model(found: object) -> TypeGuard[type[nn.Module]]:
    return inspect.isclass(found) and issubclass(found, nn.Module)
