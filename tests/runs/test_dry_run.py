"""What --dry_run tells, against what a run then does; it leaves nothing behind."""

import contextlib
import functools
import math
import os
import re
import shutil

import jax
import numpy as np
import pytest
import small_runs

from cae_jax import data, files
from cae_jax.data import listing
from cae_jax.data.frame import Frame
from cae_jax.runs import dry_run, duration, job, needs
from cae_jax.runs import thesis as thesis_runs
from cae_jax.runs.config import configure
from cae_jax.runs.machine import lock
from cae_jax.scoring import scorer
from cae_jax.types import DataError, UsageError

config_of = functools.partial(small_runs.config_of, category="all", batch_size=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two categories; of tablet one file is none of the layout's, and one defect has no mask."""
    root = tmp_path_factory.mktemp("dry")
    with small_runs.images_in(root, "tablet", "weave"):
        (root / "in/tablet/readme.txt").write_text("a file")
        next((root / "in/tablet/ground_truth/crack").iterdir()).unlink()
        yield root


def told(config):
    return dry_run.forecast(job.plan([config]))


def tree(folder):
    """Every path below a folder, with its bytes and date."""
    return {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in sorted(folder.rglob("*"))
    }


def interrupted(*_):
    raise KeyboardInterrupt


def amount(text, what):
    number, unit = re.search(rf"{what} ([\d.]+) (kB|MB|GB)", text).groups()
    return float(number) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


def test_new_going_on_and_finished(world, monkeypatch):
    """Every standing of a cell, as it is told and as the run then does; no image is opened."""
    config = config_of(world)
    before, here = tree(world), "small_net.Tiny/seed_0"
    with monkeypatch.context() as patch:
        patch.setattr(data, "read", None)
        patch.setattr("builtins.open", None)
        patch.setattr(files, "free_memory", lambda: 2**40)  # which opens what the system says of it
        lines = told(config).splitlines()
    assert tree(world) == before
    assert not (world / "run").exists()
    images = "10 images to train on, 6 to judge"
    not_used = ", 2 files not used or without a mask"
    assert lines[1] == f"{world}/run/tablet/{here}: new; {images}{not_used}"
    assert lines[2] == f"{world}/run/weave/{here}: new; {images}"
    parameters = 3 * 3 * 4 + 4 + 4 * 4 * 4 + 1
    assert lines[3] == (
        f"small_net.Tiny: {parameters} parameters, 2 epochs of 4 steps of 16 "
        "patches; an image is judged by 16 patches"
    )
    assert "cells: 2 new, 0 go on, 0 finished" in lines
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "score_all", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            job.run(config)
    before = tree(world)
    assert f"tablet/{here}: goes on after epoch 2; {images}" in told(config)
    assert "cells: 1 new, 1 go on, 0 finished" in told(config)
    assert tree(world) == before
    job.run(config)
    before = tree(world)
    assert told(config).splitlines()[-1] == "cells: 0 new, 0 go on, 2 finished"
    assert told(config_of(world, epochs=3)).count("goes on after epoch 2") == 2
    with pytest.raises(UsageError, match=r"--learning_rate=0.0002, now 0\.5"):
        told(config_of(world, learning_rate=0.5))
    again = told(config_of(world, epochs=3, overwrite=True))
    assert again.count("new, in place of what is there") == 2
    assert "cells: 2 new, 0 go on, 0 finished" in again
    cell, _ = job.plan([config_of(world, overwrite=True)])
    with lock.hold(cell.folder), pytest.raises(UsageError, match="in use by process"):
        told(config_of(world, overwrite=True))
    assert tree(world).keys() == before.keys()


def test_few_images_are_counted_as_few(world):
    told_of = told(config_of(world, workdir=str(world / "few"), train_images=4))
    assert told_of.count("4 images to train on, 6 to judge") == 2
    with pytest.raises(DataError, match="tablet: --train_images=11, but there are 10 training"):
        told(config_of(world, workdir=str(world / "few"), train_images=11))


def test_disk_is_what_the_checkpoints_take(world):
    config = config_of(world, category="weave", epochs=6, seed=3, num_patches=16)
    wanted = amount(told(config), "disk: at most")
    state = jax.eval_shape(config.build().learn.init, jax.random.key(0))
    leaves = jax.tree.leaves((state.variables, state.opt_state))
    assert wanted == pytest.approx(4 * (sum(4 * math.prod(x.shape) for x in leaves) + 20), 0.01)
    assert amount(told(config_of(world, category="weave", seed=3, num_patches=16, epochs=1)), "disk: at most") == pytest.approx(wanted / 2, 0.01)  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("model", ["small_net:Tiny", "bergmann"])
def test_memory_grows_with_what_it_is_made_of(world, model):
    """The estimate itself was held against runs; here, that every part is counted."""

    def memory(n_train=60, n_test=50, **changes):
        config = config_of(world, model=model, **changes)
        size = needs.sizes(config.resolved(), listing.Counts(n_train, n_test, 0))
        return size, size.images + max(size.training, size.scoring)

    base, _ = memory()
    cells = np.array([60 * 64**2 * 4, 50 * 64**2 * 4, 50 * 64**2])
    assert base.images == cells.sum()
    more, _ = memory(n_train=61)
    assert more.images - base.images == 64**2 * 4
    assert (more.training, more.copies) == (base.training, 0)  # they are on the device
    even, _ = memory(intensity="median")
    assert even.training - base.training == even.copies == 54 * 64**2 * 4
    more, _ = memory(batch_size=32)
    assert more.training > base.training + 16 * 32**2 * 4
    more, _ = memory(n_test=60)
    assert more.scoring - base.scoring == 2 * 10 * 64**2 * 4 * 4  # three maps, a reconstruction
    _, small = memory(image_size=64)
    _, large = memory(image_size=256)
    assert large > small


def test_a_grid(world):
    config = config_of(world, workdir=str(world / "grid"), members="vmap")
    configs = thesis_runs.grid(config, ["small_net:Tiny", "gong"], [0, 1], ["l2", "ssim"])
    lines = dry_run.forecast(job.plan(configs)).splitlines()
    assert sum(": new; " in line for line in lines) == 2 * 2 * 2 * 2
    assert [line.split(":")[0] for line in lines if "parameters" in line] == [
        *("small_net.Tiny", "small_net.Tiny-ssim"),
        *("gong", "gong-ssim"),
    ]
    assert not (world / "grid").exists()


def test_images_are_missed_now(world, tmp_path):
    (tmp_path / "in/empty/train/good").mkdir(parents=True)
    (tmp_path / "in/empty/test/good").mkdir(parents=True)
    with pytest.raises(DataError, match=r"empty/train/good: no image in it"):
        told(config_of(world, data_dir=str(tmp_path / "in"), category="all"))


def test_a_listing_counts_what_reading_finds(world):
    for dataset, category in (("folder", "tablet"), ("synthetic", "weave")):
        counts = listing.count(dataset, str(world / "in"), category)
        split = data.read(dataset, str(world / "in"), category, Frame(64, 1), 0)
        found = len(split.train), len(split.test), len(split.left_out)
        assert counts == found
    assert os.path.isdir(world / "in/tablet")


@pytest.fixture
def room(monkeypatch):
    """Sets the bytes that are free in memory and on every disk."""

    def set_to(memory, disk):
        usage = shutil.disk_usage(".")._replace(free=disk)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        monkeypatch.setattr(files, "free_memory", lambda: memory)

    return set_to


def test_more_checkpoints_than_there_is_room_for(world, room):
    config = config_of(world, workdir=str(world / "none"))
    room(2**40, 5000)
    assert "\nwarning: that is more disk than there is room for" in told(config)
    room(2**40, 1000)
    message = r"none/tablet.*: no space left for a checkpoint of [\d.]+ kB, 1 kB are free"
    with pytest.raises(DataError, match=message):
        told(config)
    outcome = job.run_grid([config])
    state = needs.amount(needs.sizes(config, listing.Counts(9, 6, 0)).state)
    assert [str(error) for error in outcome.failed.values()] == [
        f"{world}/none/{name}/small_net.Tiny/seed_0: no space left for a checkpoint of {state}, "
        "1 kB are free"
        for name in ("tablet", "weave")
    ]
    assert not list((world / "none").glob("*/*/*/checkpoints"))


IMAGES = 16 * 64**2  # pixels


@pytest.mark.parametrize(
    ("flags", "memory", "disk", "words"),
    [
        ({}, 2**30, 2**30, ""),
        ({}, 2**18, IMAGES + 2**15, ""),  # a byte each, in a file
        ({"image_size": 72}, 2**18, IMAGES + 2**15, "images of 332 kB do not fit into .*TMPDIR="),
        (
            {},
            0,
            IMAGES - 2**12,
            "images of 65.5 kB do not fit into /.*, 61.4 kB are free: a",
        ),
        (
            {"images_in": "memory"},
            IMAGES // 2,
            2**30,
            "images of 65.5 kB do not fit into memory, .*--images_in=disk keeps",
        ),
        ({"images_in": "disk"}, 2**30, IMAGES // 2, "images of 65.5 kB do not fit into /"),
        ({"images_in": "disk"}, 2**30, 2**20, ""),
    ],
)
def test_images_that_fit_nowhere(world, room, monkeypatch, flags, memory, disk, words):
    """Resized ones have four bytes a number, others one, which the first one's header tells."""
    monkeypatch.setattr(needs, "_programs", lambda *_: [])
    config = config_of(world, "nowhere", category="tablet", model="small_net:Tiny", **flags)
    room(memory, disk)
    if not words:
        assert "cells: 1 new" in told(config)
        return
    for answer in (told, job.run):
        with pytest.raises(DataError, match=f"tablet: {words}"):
            answer(config)


@pytest.mark.parametrize(
    ("method", "what"),
    [("autoencoder", "a training step"), ("filter_bank", "the fit")],
)
def test_what_the_compiler_says_does_not_fit(world, room, method, what):
    flags = {"data_dir": str(world / "in"), "workdir": str(world / "large"), "dataset": "folder"}
    config = configure(category="tablet", method=method, image_size=64, **flags)
    if method == "autoencoder":
        config = config_of(world, "large", category="tablet")
    room(2**40, 2**40)
    needs.check(world, config.resolved())
    room(100_000, 2**40)
    message = rf"tablet: {what} needs [\d.e-]+ GB of memory, 0.0001 GB are free: a smaller"
    for answer in (told, job.run):
        with pytest.raises(DataError, match=message):
            answer(config)


class Clock:
    """A second passes at each look."""

    now = 0

    def perf_counter(self):
        self.now += 1
        return self.now


def test_the_time_is_of_steps_taken_or_of_a_run_like_it(world, monkeypatch):
    """Steps of a second, then those of a finished run: its epochs may differ, not its sizes."""
    config = config_of(world, "timed", category="tablet", epochs=30)
    steps = 30 * (64 // 16)
    monkeypatch.setattr(duration, "time", Clock())
    assert "time: not known before one like these has finished in this workdir" in told(config)
    said = dry_run.forecast(job.plan([config]), time_steps=3)
    assert "small_net.Tiny: 1 s a step, the median of 3 taken now on noise" in said
    assert f"time: about 0:0{steps // 60}:{steps % 60:02} of training, one cell at a time\n" in said
    assert not (world / "timed").exists()
    job.run(config.changed(epochs=2))
    metrics = small_runs.folder_of(config) / "metrics.json"
    text = metrics.read_text()
    metrics.write_text(re.sub('"train_seconds": [0-9.]+', '"train_seconds": 4.0', text))
    other = config.changed(category="weave", seed=1)
    said = told(other)  # 4 s for 8 steps
    assert "0.5 s a step, as tablet/small_net.Tiny/seed_0 took on this device, all counted" in said
    assert f"time: about 0:01:{steps // 2 - 60:02} of training" in said
    assert "time: not known" in told(other.changed(batch_size=32))
    metrics.write_text(metrics.read_text().replace(scorer.device(), "another device"))
    assert "time: not known" in told(other)
    assert "time:" not in told(config.changed(epochs=2))  # finished


def test_no_step_is_taken_that_memory_would_not_hold(world, monkeypatch):
    monkeypatch.setattr(files, "free_memory", lambda: 10**8)  # less than XLA is said to take
    taken = []
    monkeypatch.setattr(duration, "_taken", lambda config, steps: taken.append(steps))
    config = config_of(world, "small", category="tablet")
    assert "time: not known" in dry_run.forecast(job.plan([config]), time_steps=3)
    assert taken == [0]


def test_a_method_on_a_pretrained_network():
    """Its weights are part of what inspects an image, and not of what is learned."""
    config = configure(method="gaussian", features="lite0", image_size=64, channels=3)
    size = needs.sizes(config.resolved(), listing.Counts(6, 3, 0))
    assert size.scoring > 64**2 * 4
