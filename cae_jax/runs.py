"""The main job: for every category, read, train, score, write; each part goes on where it stopped.

A workdir holds one cell per category, model and seed, WORKDIR/CATEGORY/MODEL[-LOSS]/seed_N, and
results.csv over all of them. A cell is finished when its metrics.json is there: it comes last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import pandas as pd

from cae_jax import augment, data, files, losses, report, score, train
from cae_jax.checkpoints import Checkpoints
from cae_jax.config import Config
from cae_jax.evaluation import Trained, write_evaluation
from cae_jax.members import default_plan
from cae_jax.methods.autoencoder import autoencoder, optimizer
from cae_jax.progress import Progress
from cae_jax.types import CaeError, DataError, Method, Split, State, UsageError

# What may differ between two starts of the same run.
_NOT_IDENTITY = ("workdir", "overwrite", "category", "save_maps", "members", "checkpoint_every")
_PACKAGES = ("cae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")


class Cell(NamedTuple):
    """One category, model and seed of a workdir."""

    folder: Path
    config: Config  # its category is the cell's one

    @property
    def finished(self) -> bool:
        """Whether all its files are written."""
        return (self.folder / "metrics.json").exists()


def run(config: Config) -> pd.DataFrame:
    """Runs the main job; finished cells are not done again. Returns the workdir's results.

    Raises:
      UsageError: flags that cannot work, or a workdir with another run's results.
      DataError: images that cannot be used.
      CaeError: training diverged. What was finished before is written.
    """
    config = config.resolved()
    config.check()
    method = build_method(config)
    names = data.resolve(config.dataset, config.data_dir, config.categories)
    cells = [make_cell(config, name) for name in names]
    for cell in cells:
        claim(cell)
    use_compilation_cache()
    for cell in cells:
        if cell.finished:
            _say(f"{cell.folder}: finished before")
            continue
        run_cell(cell, method, summary=True)
        write_results(config.folder)
    return write_results(config.folder)


def run_cell(
    cell: Cell, method: Method, bars: Callable[..., Progress] = Progress, summary: bool = False
) -> None:
    """Reads, trains and judges one cell, from its last checkpoint on.

    Args:
      cell: what and where; its folder is claimed, see `claim`.
      method: of the cell's config.
      bars: makes what shows the progress of each part, as `Progress` does.
      summary: print what was found in the category's folder.

    Raises what `run` raises.
    """
    split = read_split(cell.config, bars)
    if summary:
        print(data.summary(split), flush=True)
    _prepare(cell, split)
    c = cell.config
    (trained,) = _train([(cell, split)], method, bars)
    if isinstance(trained, CaeError):
        raise trained
    write_evaluation(cell.folder, c, method, split, trained, bars)


def run_together(
    cells: Sequence[Cell], method: Method, bars: Callable[..., Progress] = Progress
) -> dict[Path, Exception]:
    """Runs cells that differ in category and seed alone as members of one training.

    Takes what `run_cell` takes. One that fails does not stop the others.

    Returns:
      What went wrong, by the cell's folder.

    Raises:
      UsageError: flags that cannot work.
    """
    failed: dict[Path, Exception] = {}
    ready = []
    for cell in cells:
        with _keeping(failed, cell):
            split = read_split(cell.config, bars)
            _prepare(cell, split)
            ready.append((cell, split))
    for (cell, split), trained in zip(ready, _train(ready, method, bars), strict=True):
        with _keeping(failed, cell):
            if isinstance(trained, CaeError):
                raise trained
            write_evaluation(cell.folder, cell.config, method, split, trained, bars)
    return failed


@contextlib.contextmanager
def _keeping(failed: dict[Path, Exception], cell: Cell) -> Iterator[None]:
    """Notes an exception as the cell's, whatever it is: the other cells can still be had."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        failed[cell.folder] = error


def evaluate(
    workdir: Path, data_dir: str = "", changes: Mapping[str, Any] = MappingProxyType({})
) -> pd.DataFrame:
    """Makes scores and all that follows again from the checkpoints in a workdir.

    Args:
      workdir: what `run` wrote.
      data_dir: where the images are now; empty for where they were.
      changes: flags of `config.SCORING` by name, where they shall differ from the run's; they
        become the run's.

    Raises:
      UsageError: no run there, or a change that cannot work.
      DataError: a checkpoint or an image that cannot be read.
    """
    cells = [
        cell._replace(config=dataclasses.replace(cell.config, **changes))
        for cell in find_cells(workdir)
    ]
    for cell in cells:
        cell.config.check()
    use_compilation_cache()
    for cell in cells:
        method = build_method(cell.config)
        trained = load_trained(cell, method)
        config = dataclasses.replace(cell.config, data_dir=data_dir or cell.config.data_dir)
        split = read_split(config)
        before = json.loads((cell.folder / "versions.json").read_text())["data_fingerprint"]
        if data.fingerprint(split) != before:
            _say(f"{cell.folder}: warning: these are not the images of the training run")
        (cell.folder / "metrics.json").unlink(missing_ok=True)  # not finished with these flags
        files.write_whole(cell.folder / "flags.txt", cell.config.to_flagfile())
        write_evaluation(cell.folder, config, method, split, trained)
    return write_results(workdir)


def build_method(config: Config) -> Method:
    """Returns the config's model as a method; raises UsageError for what cannot work."""
    tx = optimizer(config.learning_rate, config.weight_decay, config.decoupled_weight_decay)
    loss = losses.loss(config.loss, config.residual().ssim)
    chunk_size = train.default_chunk_size(config.patch_size)
    return autoencoder(config.build_model(), tx, chunk_size, loss, config.precision)


def read_split(config: Config, bars: Callable[..., Progress] = Progress) -> Split:
    """Reads the config's one category and holds its validation images out."""
    c = config
    with bars(f"read {c.category}", 0, "images") as bar:
        split = data.read(
            *(c.dataset, c.data_dir, c.category, c.image_size, c.channels, c.seed),
            on_bad_image=c.on_bad_image,
            progress=bar.update,
        )
    return data.hold_out(split, c.validation_fraction, c.seed)


def find_cells(workdir: Path) -> list[Cell]:
    """Returns the cells of a workdir, sorted; raises UsageError when there is none."""
    cells = []
    for path in sorted(workdir.glob("*/*/seed_*/flags.txt")):
        config = _read_flags(path)
        cells.append(Cell(path.parent, dataclasses.replace(config, workdir=str(workdir))))
    if not cells:
        raise UsageError(f"--workdir={workdir}: no run in it (no CATEGORY/MODEL/seed_N/flags.txt)")
    return cells


def _read_flags(path: Path) -> Config:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")  # as write_whole writes
    return Config.from_flagfile(text, str(path))


def fresh_state(method: Method, seed: int) -> State:
    """Returns the state that training with `seed` starts from."""
    # rbg: with threefry, compiling the initialisation takes several times longer on a CPU
    return jax.jit(method.init)(jax.random.key(seed, impl="rbg"))


def load_trained(cell: Cell, method: Method) -> Trained:
    """Returns what a cell's last checkpoint holds; raises DataError for a run not trained out."""
    with Checkpoints(cell.folder / "checkpoints") as checkpoints:
        found = checkpoints.restore(fresh_state(method, cell.config.seed))
    if found is None or found[0] < cell.config.epochs:
        raise DataError(f"{cell.folder}: not trained to the end; run experiments.run again")
    _, state, notes = found
    return Trained(state.variables, notes["history"], notes["seconds"])


def write_results(workdir: Path) -> pd.DataFrame:
    """Writes results.csv over the finished cells of a workdir and returns it."""
    rows = [json.loads(p.read_text()) for p in sorted(workdir.glob("*/*/seed_*/metrics.json"))]
    table = report.results_table(rows)
    report.write_csv(workdir / "results.csv", table)
    return table


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder: a second start compiles nothing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(base) / "cae_jax" / "xla"))


def make_cell(config: Config, category: str) -> Cell:
    """Returns the cell of a category in the config's workdir.

    Raises UsageError where --augment=auto does not know the category.
    """
    kind = augment.kind_for(config.augment, category)
    model = config.model.replace(":", ".")
    if config.loss != "l2":
        model += f"-{config.loss}"
    folder = config.folder / category / model / f"seed_{config.seed}"
    return Cell(folder, dataclasses.replace(config, category=category, augment=kind))


def claim(cell: Cell) -> None:
    """Raises UsageError when the cell's folder holds another run; --overwrite clears it."""
    path = cell.folder / "flags.txt"
    if cell.config.overwrite and cell.folder.exists():
        shutil.rmtree(cell.folder)
    if not path.exists():
        return
    before = _read_flags(path)
    for field in dataclasses.fields(Config):
        was, now = getattr(before, field.name), getattr(cell.config, field.name)
        if was != now and field.name not in _NOT_IDENTITY:
            raise UsageError(
                f"{cell.folder} holds a run with --{field.name}={was}, now {now}: "
                "take another --workdir, or --overwrite"
            )


def _prepare(cell: Cell, split: Split) -> None:
    """Writes what the run is before it starts; on a later start checks the images against it."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    fingerprint = data.fingerprint(split)
    path = cell.folder / "versions.json"
    if path.exists():
        before = json.loads(path.read_text())["data_fingerprint"]
        if before != fingerprint:
            raise DataError(
                f"{cell.folder}: the images changed since this run began "
                f"(fingerprint {before[:12]}, now {fingerprint[:12]}); use --overwrite"
            )
    # First of all files: whatever else lies in a cell belongs to these flags.
    files.write_whole(cell.folder / "flags.txt", cell.config.to_flagfile())
    left_out = pd.DataFrame(split.left_out, columns=["path", "cause"])
    report.write_csv(cell.folder / "left_out.csv", left_out)
    report.write_json(
        path,
        {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)},
            "device": score.device(),
            "seed": cell.config.seed,
            "data_fingerprint": fingerprint,
        },
    )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _train(
    pairs: Sequence[tuple[Cell, Split]], method: Method, bars: Callable[..., Progress]
) -> list[Trained | CaeError]:
    """Trains cells from their last checkpoints on; those at the same epoch train together."""
    ends: list[Trained | CaeError] = [CaeError("not trained")] * len(pairs)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(Checkpoints(c.folder / "checkpoints")) for c, _ in pairs]
        members = [
            train.Member(s.train, s.validation, _schedule(c.config), _start(c, method, at))
            for (c, s), at in zip(pairs, opened, strict=True)
        ]
        for epoch in sorted({member.start.epoch for member in members}):
            which = [i for i, member in enumerate(members) if member.start.epoch == epoch]
            cells, chosen, kept = ([each[i] for i in which] for each in (pairs, members, opened))
            found = _fit([cell for cell, _ in cells], chosen, kept, method, bars)
            for i, end in zip(which, found, strict=True):
                failed = isinstance(end, CaeError)
                ends[i] = end if failed else Trained(end.state.variables, end.history, end.seconds)
    return ends


def _fit(
    cells: Sequence[Cell],
    members: Sequence[train.Member],
    checkpoints: Sequence[Checkpoints],
    method: Method,
    bars: Callable[..., Progress],
) -> list[train.Progress | CaeError]:
    """`train.fit_members` under a bar, with checkpoints of every member."""
    c, n = cells[0].config, len(members)
    steps = members[0].schedule.steps_per_epoch
    done = steps * members[0].start.epoch

    def save(i: int, at: train.Progress) -> None:
        if at.epoch % c.checkpoint_every and at.epoch < c.epochs:
            return
        _check_space(cells[i].folder, at.state)
        checkpoints[i].save(at.epoch, at.state, {"history": at.history, "seconds": at.seconds})

    name = f"train {c.category if n == 1 else f'{n} members'}"
    each = c.batch_size * n
    with bars(name, steps * c.epochs * each, "patches", done * each) as bar:

        def on_step(step: int, loss: float) -> None:
            nonlocal done
            epoch = -(-step // steps)
            bar.update((step - done) * each, f"epoch {epoch}/{c.epochs}, loss {loss:.5f}")
            done = step

        plan = default_plan(c.members, n, c.batch_size)
        return train.fit_members(method, members, plan, on_step, save)


def _schedule(c: Config) -> train.Schedule:
    return train.Schedule(
        *(c.epochs, c.batch_size, c.num_patches, c.patch_size, c.seed, c.redraw_patches),
        c.augment,
    )


def _start(cell: Cell, method: Method, checkpoints: Checkpoints) -> train.Progress:
    """Where a cell's training goes on, or a fresh start."""
    state = fresh_state(method, cell.config.seed)
    found = checkpoints.restore(state)
    if not found:
        return train.Progress(0, state, [], 0.0)
    epoch, state, notes = found
    _say(f"{cell.folder}: goes on after epoch {epoch} of {cell.config.epochs}")
    return train.Progress(epoch, state, notes["history"], notes["seconds"])


def _check_space(folder: Path, state: State) -> None:
    """Raises OSError where no checkpoint fits: orbax would fail in its threads, at length."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
