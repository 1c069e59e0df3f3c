"""The thesis's experiment: its models in a grid, and all systems that it names side by side.

Which systems these are is data, `cae_jax/tables/systems.csv`: a name, what the thesis calls it and
where, and the preset or method that it is here, with flags. Each has a folder of its own in the
workdir, as an entry of `runs.benchmark` has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cae_jax import options
from cae_jax.reports.benchmark.cells import read_failed
from cae_jax.reports.run_files import FINISHED
from cae_jax.reports.thesis.systems import Missing, listed
from cae_jax.runs import benchmark, presets
from cae_jax.runs.benchmark import Planned
from cae_jax.runs.config import Config
from cae_jax.runs.machine import multihost
from cae_jax.types import UsageError, unknown_name

ALL = "all"
# Flags of the grid of models alone, and such as the grid has and no model for itself.
_OF_MODELS = ("models", "losses", "flags_of_model", *multihost.FLAGS)
_OF_GRID = ("seed", "model", "loss", "method", "category", "dataset", "data_dir", "workdir")
_OF_SYSTEMS = ("flags_of_method", "flags_of", "tables_only")  # flags of --methods alone


def check_flags(given: Mapping[str, str]) -> None:
    """Raises UsageError where a flag makes no sense beside the others, or without them.

    `given` are the flags on the command line by name, as they stand there.
    """
    several = "methods" in given
    for name in _OF_MODELS if several else _OF_SYSTEMS:
        if name in given:
            how = "not together" if several else "only"
            raise UsageError(f"{given[name]}: {how} with --methods")


def grid(
    settings: Config,
    chosen: Sequence[str],
    seeds: Sequence[int],
    losses: Sequence[str],
    of_model: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> list[Config]:
    """Returns every seed with every model and loss; a model trained on SSIM is judged by it.

    `of_model` are flags of one model alone, by its name, as text, in the place of the settings'.
    Raises UsageError for a list without names, a model that is none of the chosen, and a flag that
    cannot be a model's own.
    """
    for name, values in (("models", chosen), ("seeds", seeds), ("losses", losses)):
        if not values:
            raise UsageError(f"--{name}=: must be one or more, with commas")
    own = {}
    for model, texts in of_model.items():
        if model not in chosen:
            raise unknown_name("model in --flags_of_model", model, chosen)
        for name in texts:
            if name in _OF_GRID:
                raise UsageError(f"--flags_of_model={model}:{name}: is the grid's, not a model's")
        own[model] = benchmark.all_typed(settings, texts, "flags_of_model")
    return [
        settings.changed(
            **{"distance": "ssim" if loss == "ssim" else settings.distance, **own.get(model, {})},
            seed=seed,
            model=model,
            loss=loss,
        )
        for seed in dict.fromkeys(seeds)
        for model in dict.fromkeys(chosen)
        for loss in dict.fromkeys(losses)
    ]


def names(asked: Sequence[str]) -> list[str]:
    """Returns the systems of --methods in the order of the table; `ALL` stands for every one.

    Raises UsageError for a name that the table has not.
    """
    known = listed()["name"].tolist()
    if not asked:
        raise UsageError("--methods=: must be one or more, with commas, or all")
    for name in asked:
        if name not in (ALL, *known):
            raise unknown_name("name in --methods", name, (ALL, *known))
    return [name for name in known if {ALL, name} & set(asked)]


def methods_of(asked: Sequence[str]) -> list[str]:
    """Returns the methods of systems, each once: whose flags a command line has. A preset that is
    not there is passed over, for `planned` names it. Raises UsageError as `names` does."""
    entries, found = listed().set_index("name")["entry"], []
    for name in names(asked) if asked else ():
        try:
            found.append(presets.read(entries[name]).method)
        except UsageError:
            continue
    return list(dict.fromkeys(found))


def planned(
    asked: Sequence[str],
    seeds: Sequence[int],
    given: Mapping[str, Any],
    of_method: Mapping[str, Mapping[str, str]],
    of_category: Mapping[str, Mapping[str, str]],
    workdir: Path,
) -> Planned:
    """Returns the cells of systems, all that `benchmark.run` needs.

    Args:
      asked: see `names`.
      seeds: of each cell.
      given: flags by name, for every system that has them, in the place of its own.
      of_method: the same of one system, or of all of one method, by its name, as text; a system's
        hold against its method's, and both against `given`.
      of_category: the same of one category, against all others.
      workdir: of all systems.

    Raises UsageError for a system that this version cannot build, and as `benchmark.planned`.
    """
    table, starts = listed().set_index("name"), {}
    for name in names(asked):
        with benchmark.named(name):
            start = presets.read(table.at[name, "entry"])
            own = options.pairs("methods", table.at[name, "flags"])
            start = start.changed(**benchmark.all_typed(start, own, "methods"))
            start = benchmark.with_flags(start, given)
            for key in (start.method, name):
                own = benchmark.all_typed(start, of_method.get(key, {}), "flags_of_method")
                start = start.changed(**own)
            starts[name] = start
    _check(of_method, given, starts)
    few = (given.get("train_images", 0),)
    found = benchmark.planned(starts, seeds, few, given, of_category, workdir)
    for name, cause in found.left_out.items() if not found.grids else ():
        raise UsageError(f"--methods: none is left to run: {name}: {cause}")
    return found


def finished(of: Planned, workdir: Path) -> tuple[list[dict[str, Any]], list[Missing]]:
    """Returns the finished cells of a plan, and why others are missing.

    A cell is its system's name as "system", with its flags and its metrics.json, for
    `reports.thesis.systems`. Raises DataError for a failed.json that cannot be read.
    """
    causes, cells, missing = read_failed(workdir), [], []
    for system, cause in of.left_out.items():
        missing.append(Missing(system, "", cause))
    for each in of.grids:
        for cell in each.cells:
            if cell.finished:
                metrics = json.loads((cell.folder / FINISHED).read_text(encoding="utf-8"))
                cells.append({**cell.config.flags(), **metrics, "system": each.title})
                continue
            cause = causes.get(cell.folder.relative_to(workdir).as_posix(), "not run yet")
            missing.append(Missing(each.title, cell.config.category, cause))
    return cells, missing


def _check(
    of_method: Mapping[str, Mapping[str, str]],
    given: Mapping[str, Any],
    starts: Mapping[str, Config],
) -> None:
    """Raises UsageError for flags that no system would take."""
    known = {*starts, *(start.method for start in starts.values())}
    for name in of_method:
        if name not in known:
            raise unknown_name("name in --flags_of_method", name, known)
    fields = {name for start in starts.values() for name in start.fields()}
    for name in given:
        if name not in fields:
            raise unknown_name("flag", f"--{name}", [f"--{field}" for field in fields])
