"""Many methods side by side: entries x numbers of images x categories x seeds, by the main job.

An entry is a preset or a method, see `presets.read`. Each has a workdir of its own below the
benchmark's, WORKDIR/ENTRY or WORKDIR/ENTRY-train_N, in which `job.run_grid` leaves its cells: what
is finished is not done again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from cae_jax import data, options
from cae_jax.reports.benchmark.cells import folder_name, write_failed
from cae_jax.runs import cell as cells_of
from cae_jax.runs import config as configs_of
from cae_jax.runs import job, presets
from cae_jax.runs.cell import Cell
from cae_jax.runs.config import Config
from cae_jax.runs.machine.progress import say
from cae_jax.types import CaeError, Steps, UsageError, WeightsError, unknown_name

# What a cell is in the grid, or where its images and files are.
_OF_GRID = ("method", "category", "seed", "train_images", "workdir", "dataset", "data_dir")


class Grid(NamedTuple):
    """The cells of one entry and category, a seed each: what `job.run_grid` is given."""

    title: str  # of the entry
    configs: list[Config]
    cells: list[Cell]


class Planned(NamedTuple):
    """What is to be run, and what cannot be."""

    grids: list[Grid]  # in order
    left_out: dict[str, str]  # entries whose pretrained weights are not there, and why


def grids(
    entries: Sequence[str],
    seeds: Sequence[int],
    few: Sequence[int],
    given: Mapping[str, Any],
    of_category: Mapping[str, Mapping[str, str]],
    workdir: Path,
    of_method: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> list[Grid]:
    """Returns all that is to be run, in order; nothing is computed before it is known to fit.

    Args:
      entries: see `presets.read`; those whose pretrained weights are not installed are left out,
        which is said.
      seeds: of each cell.
      few: see `planned`.
      given: see `with_flags`.
      of_category: see `planned`.
      workdir: the benchmark's.
      of_method: flags of one entry, by what it is called, or of all of one method, by its name, as
        text; an entry's hold against its method's, and both against `given`.

    Raises:
      UsageError: as `planned`; two entries of one title; no entry left.
    """
    starts: dict[str, Config] = {}
    for entry in dict.fromkeys(entries):
        title = presets.title(entry)
        if title in map(presets.title, starts):
            raise UsageError(f"--methods: two entries are called {title}")
        with named(entry):
            start = with_flags(presets.read(entry), given)
            for key in dict.fromkeys((start.method, title)):
                own = all_typed(start, of_method.get(key, {}), "flags_of_method")
                start = start.changed(**own)
            starts[entry] = start
    known = {*map(presets.title, starts), *(start.method for start in starts.values())}
    for name in of_method:
        if name not in known:
            raise unknown_name("name in --flags_of_method", name, known)
    found = planned(starts, seeds, few, given, of_category, workdir)
    for entry, cause in found.left_out.items():
        say(f"left out: {entry}: {cause}")
    if not found.grids:
        raise UsageError("--methods: none is left to run")
    return found.grids


def planned(
    starts: Mapping[str, Config],
    seeds: Sequence[int],
    few: Sequence[int],
    given: Mapping[str, Any],
    of_category: Mapping[str, Mapping[str, str]],
    workdir: Path,
) -> Planned:
    """Returns the grids of entries whose flags are known.

    Args:
      starts: by entry, its flags with those given, as `with_flags` makes them.
      seeds: of each cell.
      few: --train_images of each cell, 0 for all. Of few images a method that learns by steps
        holds none out, where --validation_fraction is not given.
      given: flags by name; the categories are taken from here.
      of_category: flags of one category alone, over an entry's where it has them, as text.
      workdir: each entry has a folder of its own in it, see `folder_name`.

    Raises:
      UsageError: an entry, a category or a flag that cannot work; a cell's folder that holds
        another run.
    """
    at = configs_of.configure(category=given.get("category", "all"), **_where(given))
    categories = data.resolve(at.dataset, at.data_dir, at.categories, at.names)
    for name in of_category:
        if name not in categories:
            raise unknown_name("category of --flags_of", name, categories)
    usable, left_out = _usable(starts)
    found: list[Grid] = []
    for entry, start in usable.items():
        title = presets.title(entry)
        with named(entry):
            for count in few:
                flags: dict[str, Any] = {"train_images": count}
                flags["workdir"] = str(workdir / folder_name(title, count))
                by_steps = isinstance(start.build().learn, Steps)
                if count and by_steps and "validation_fraction" not in given:
                    flags["validation_fraction"] = 0.0
                for name in categories:
                    texts = of_category.get(name, {})
                    own = typed(start, texts, "flags_of") | {"category": name}
                    configs = [start.changed(**{**flags, **own, "seed": seed}) for seed in seeds]
                    cells = job.plan(configs)
                    for cell in cells:
                        cells_of.check_same(cell)
                    found.append(Grid(title, configs, cells))
    if found:
        _check_flags(found, of_category)
    return Planned(found, left_out)


def with_flags(start: Config, given: Mapping[str, Any]) -> Config:
    """Returns an entry's flags with those given in their place, where it has them.

    The data set is the given one, or the command's default, whatever a preset has. Raises
    UsageError for a value that cannot work.
    """
    return start.changed(**_known(start, {**given, **_where(given)}))


def run(grids_to_do: Sequence[Grid], workdir: Path) -> dict[str, str]:
    """Runs every cell that is not finished; one that fails does not stop the rest.

    What failed is kept in the workdir's failed.json, from which the tables know it.

    Returns:
      Why cells of these are not finished, by ENTRY/CATEGORY/RUN/seed_N.

    Raises:
      UsageError: a folder that another process holds.
    """
    causes: dict[str, str] = {}
    for i, grid in enumerate(grids_to_do, 1):
        names = {cell.name: _path(cell, workdir) for cell in grid.cells}
        say(f"{i} of {len(grids_to_do)}: {grid.title}, {grid.cells[0].config.category}")
        failed: dict[str, Exception]
        try:
            failed = job.run_grid(grid.configs).failed
        except UsageError:
            raise
        except Exception as error:  # whatever a method raises, the other methods can still be had
            failed = {cell.name: error for cell in grid.cells if not cell.finished}
        causes |= {names[name]: _one_line(error) for name, error in failed.items()}
        write_failed(workdir, causes)
    return causes


def flags_by_category(
    texts: Sequence[str],
    flag_name: str = "flags_of",
    of: str = "CATEGORY",
    fixed: Collection[str] = _OF_GRID,
) -> dict[str, dict[str, str]]:
    """Reads "CATEGORY:name=value,name=value", several, of --`flag_name`; raises UsageError for
    anything else, and for the flags `fixed`, of which the grid's own hold."""
    found: dict[str, dict[str, str]] = {}
    for text in filter(None, texts):
        name, colon, flags = text.partition(":")
        if not (name and colon):
            raise UsageError(f"--{flag_name}={text}: expected {of}:name=value,name=value")
        own = options.pairs(flag_name, flags)
        for fault in own:
            if fault in fixed:
                raise UsageError(f"--{flag_name}={name}:{fault}: is the grid's, not of one part")
        found.setdefault(name, {}).update(own)
    return found


def typed(config: Config, texts: Mapping[str, str], flag_name: str) -> dict[str, Any]:
    """Returns the values of flags given as text, of those that the config's method has.

    Raises UsageError, naming --`flag_name`, for a value of another type.
    """
    known = config.fields()
    return {
        name: options.from_text(f"--{flag_name}: {name}", text, known[name].default)
        for name, text in _known(config, texts).items()
    }


def all_typed(config: Config, texts: Mapping[str, str], flag_name: str) -> dict[str, Any]:
    """Returns `typed` of flags that the config's method has to have; raises UsageError for one that
    it has not."""
    for name in texts:
        if name not in config.fields():
            raise unknown_name(f"flag of --{flag_name}", name, config.fields())
    return typed(config, texts, flag_name)


def whole_numbers(flag_name: str, texts: Sequence[str], most: float) -> list[int]:
    """Reads a list of numbers from 0 to `most`, each once; raises UsageError for anything else."""
    numbers = [int(text) for text in texts if text.strip().isdecimal()]
    if not numbers or len(numbers) < len(texts) or max(numbers) > most:
        given = ",".join(texts)
        raise UsageError(f"--{flag_name}={given}: must be whole numbers from 0 on, with commas")
    return list(dict.fromkeys(numbers))


@contextlib.contextmanager
def named(entry: str) -> Iterator[None]:
    """Says of which entry a UsageError in the block is."""
    try:
        yield
    except UsageError as error:
        raise type(error)(f"{entry}: {error}") from error


def _usable(starts: Mapping[str, Config]) -> tuple[dict[str, Config], dict[str, str]]:
    """The entries whose methods can be built, and why the others cannot for want of weights."""
    found: dict[str, Config] = {}
    left_out: dict[str, str] = {}
    for entry, start in starts.items():
        try:
            with named(entry):
                start.check()
                start.build()
        except WeightsError as error:
            left_out[entry] = str(error).removeprefix(f"{entry}: ")
            continue
        found[entry] = start
    return found, left_out


def _where(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of which images a run is: as given, else the command's own."""
    names = ("dataset", "data_dir", "layout", "good_name", "mask_pattern", "test_fraction")
    defaults = {name: configs_of.shared()[name].default for name in names}
    return {name: given.get(name, default) for name, default in defaults.items()}


def _known(config: Config, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those flags that the config's method has."""
    known = config.fields()
    return {name: value for name, value in flags.items() if name in known}


def _check_flags(found: Sequence[Grid], of_category: Mapping[str, Mapping[str, str]]) -> None:
    """Raises UsageError for a flag of a category that no entry has."""
    known = {name for grid in found for name in grid.configs[0].fields()}
    for flags in of_category.values():
        for name in flags:
            if name not in known:
                raise unknown_name("flag of --flags_of", name, known)


def _path(cell: Cell, workdir: Path) -> str:
    return cell.folder.relative_to(workdir).as_posix()


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if isinstance(error, CaeError) else f"{type(error).__name__}: {words}"
