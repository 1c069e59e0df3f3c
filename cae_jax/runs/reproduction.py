"""The thesis's experiment: every category with every model and seed, and its tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cae_jax import data, files
from cae_jax.reports import architectures, plots, results
from cae_jax.reports.thesis import page, tables
from cae_jax.runs import config as configs
from cae_jax.runs import job
from cae_jax.runs.machine import multihost
from cae_jax.runs.machine.progress import Progress
from cae_jax.scoring import patches
from cae_jax.training.members import default_plan
from cae_jax.types import CaeError, Method, UsageError

_TOGETHER = 16  # members of one training, at most: their images lie on the device together


class Outcome(NamedTuple):
    """What came of a grid."""

    cells: list[dict[str, Any]]  # flags and metrics.json of every finished cell
    failed: dict[str, str]  # why the others are not, by CATEGORY/MODEL[-LOSS]/seed_N


def reproduce(
    config: configs.Config,
    models: Sequence[str],
    seeds: Sequence[int],
    losses: Sequence[str] = ("l2",),
) -> Outcome:
    """Runs every cell that is not finished yet; one that fails does not stop the rest.

    Where several processes run (`multihost`), each takes its share of the cells, in one workdir
    that all of them can write to.

    Args:
      config: of every cell, but for its model, seed, loss and distance; model options hold
        for all models.
      models: as in --model.
      seeds: as in --seed.
      losses: as in --loss; a model trained on "ssim" is judged by it, every other
        one by --distance.

    Returns:
      The finished cells, and the failed ones with their causes.

    Raises:
      UsageError: flags that cannot work with one of the models, or a cell's folder that holds
        another run or that another process writes to, before anything is computed.
    """
    cells, methods = plan(config, models, seeds, losses)
    with multihost.together("cells"):
        mine = multihost.share(cells)
        with job.claimed(mine):
            job.use_compilation_cache()
            failed = _run_all([cell for cell in mine if job.left_to_do(cell)], methods)
    if multihost.is_first():
        job.write_results(config.folder)
    finished = [cell for cell in cells if cell.finished and _name(cell) not in failed]
    for cell in cells:
        if cell not in finished:  # of another process, which says why
            failed.setdefault(_name(cell), "not finished, see the output of the process it was on")
    found = [
        {
            **dataclasses.asdict(cell.config),
            **json.loads((cell.folder / "metrics.json").read_text()),
        }
        for cell in finished
    ]
    return Outcome(found, failed)


def plan(
    config: configs.Config,
    models: Sequence[str],
    seeds: Sequence[int],
    losses: Sequence[str] = ("l2",),
) -> tuple[list[job.Cell], dict[tuple[str, str], Method]]:
    """Returns the cells of a grid in order, and the method of every model and loss.

    Takes what `reproduce` takes and raises UsageError as it does.
    """
    for flag, values in (("models", models), ("seeds", seeds), ("losses", losses)):
        if not values:
            raise UsageError(f"--{flag}=: must be one or more, with commas")
    config = config.resolved()
    for seed in seeds:
        configs.check_value("seed", seed)
    each = {
        (model, loss): dataclasses.replace(
            config, model=model, loss=loss, distance="ssim" if loss == "ssim" else config.distance
        )
        for model in models
        for loss in losses
    }
    for one in each.values():
        one.check()
    names = data.resolve(config.dataset, config.data_dir, config.categories)
    methods = {key: job.build_method(one) for key, one in each.items()}
    cells = [
        job.make_cell(dataclasses.replace(one, seed=seed), category)
        for category in names
        for seed in seeds
        for one in each.values()
    ]
    for group in _groups(multihost.share(cells)):
        default_plan(config.members, len(group), config.batch_size)  # raises what cannot be split
    return cells, methods


def write_tables(folder: Path, outcome: Outcome) -> None:
    """Writes the thesis's tables as CSV, Markdown and a figure into `folder`.

    Raises:
      CaeError: no cell finished, so there is nothing to write.
    """
    if not outcome.cells:
        raise CaeError(f"no cell finished: {next(iter(outcome.failed.values()), 'nothing to run')}")
    folder.mkdir(parents=True, exist_ok=True)
    printed = set(tables.printed("table1_dataset")["category"])
    there = {cell["category"] for cell in outcome.cells}
    results.write_csv(folder / "table1.csv", tables.table1(outcome.cells))
    results.write_csv(folder / "tables2_3.csv", tables.tables2_3(outcome.cells))
    results.write_csv(folder / "localization.csv", tables.localization(outcome.cells))
    results.write_csv(folder / "thresholds.csv", tables.threshold_rules(outcome.cells))
    results.write_csv(folder / "auroc.csv", tables.honest(outcome.cells))
    text = page.markdown_page(outcome.cells, sorted(printed - there), outcome.failed)
    files.write_whole(folder / "tables.md", text)
    l2 = tables.trained_on_l2(outcome.cells)
    if not l2:
        return
    table = tables.tables11_14(l2)
    results.write_csv(folder / "table5.csv", tables.table5(l2))
    results.write_csv(folder / "table6.csv", tables.table6(l2))
    results.write_csv(folder / "tables11_14.csv", table)
    title = "synthetic data" if outcome.cells[0]["dataset"] == "synthetic" else ""
    plots.plot_reproduction(folder / "table11.png", table[table["table"] == 11], title)


def _run_all(
    cells: Sequence[job.Cell], methods: Mapping[tuple[str, str], Method]
) -> dict[str, str]:
    """Runs the cells under one progress line, counted in multiply-accumulates."""
    failed: dict[str, str] = {}
    groups = _groups(cells)
    shares = [_Shares(group) for group in groups]
    done = 0
    with Progress("grid", sum(share.total for share in shares), "GMAC") as grid:
        for group, share in zip(groups, shares, strict=True):
            c = group[0].config
            numbers = "-".join(dict.fromkeys((str(done + 1), str(done + len(group)))))
            share.attach(grid, f"cell {numbers} of {len(cells)}: {_name(group[0])}")
            for folder, error in job.run_together(group, methods[c.model, c.loss], share).items():
                name = _name(next(cell for cell in group if cell.folder == folder))
                failed[name] = " ".join(str(error).split()) or type(error).__name__
            share.finish()
            done += len(group)
    return failed


def _groups(cells: Sequence[job.Cell]) -> list[list[job.Cell]]:
    """The cells in the order in which they run, those together that train as one."""
    groups: list[list[job.Cell]] = []
    at: dict[tuple[str, str], list[job.Cell]] = {}
    for cell in cells:
        c = cell.config
        group = at.get((c.model, c.loss), [])
        together = default_plan(c.members, 2, c.batch_size).stacked
        if not group or len(group) == _TOGETHER or not together:
            group = at[c.model, c.loss] = []
            groups.append(group)
        group.append(cell)
    return groups


def _name(cell: job.Cell) -> str:
    return str(cell.folder.relative_to(cell.config.folder))


class _Shares:
    """Makes, in place of a bar per part, parts of the grid's one bar."""

    def __init__(self, cells: Sequence[job.Cell]) -> None:
        c = cells[0].config
        cost = architectures.describe(c.model, c.channels, c.patch_size, c.options())
        one = cost["macs_per_patch"] / 1e9
        windows = len(patches.starts(c.image_size, c.stride)) ** 2
        # a step costs about three forward passes: forward, and the gradients of input and kernel
        self._weights = {"train": 3 * one, "score": windows * one}
        steps = c.num_patches // c.batch_size * c.batch_size * c.epochs * len(cells)
        self.total = round(3 * one * steps) + 1
        self._counted = 0.0
        self._weight = 0.0
        self._grid: Progress | None = None
        self._name = ""

    def attach(self, grid: Progress, name: str) -> None:
        self._grid, self._name = grid, name

    def __call__(self, label: str, total: int, unit: str, done: int = 0) -> _Shares:
        part = label.split()[0]
        self._weight = self._weights.get(part, 0.0)
        if part == "score":  # how many images there are is known only when they have been read
            more = round(total * self._weight)
            self.total += more
            self._grid.grow(more)
        self._grid.skip(self._count(done))
        return self

    def update(self, n: int, note: str = "") -> None:
        self._grid.update(self._count(n), self._name)

    def _count(self, n: int) -> int:
        before = round(self._counted)
        self._counted += n * self._weight
        return round(self._counted) - before

    def finish(self) -> None:
        self._grid.update(self.total - round(self._counted), self._name)

    def __enter__(self) -> _Shares:
        return self

    def __exit__(self, *_: object) -> None:
        pass
