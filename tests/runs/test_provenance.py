"""A finished run whose images, their place, or whose own code is other by now."""

import os
import shutil
import sys

import pytest
from small_runs import config_of, folder_of, images_in

import cae_jax
from cae_jax import data
from cae_jax.runs import cell as cells
from cae_jax.runs import job, own_code, provenance
from cae_jax.types import DataError

NET = """
from own_nets import layers
from own_nets.nets import flax, Reconstruction


class Tiny(flax.linen.Module):
    channels: int = 1
    patch_size: int = 32

    @flax.linen.compact
    def __call__(self, x, train=False):
        return Reconstruction(layers.last(self.channels)(x), {})
"""
FILES = {
    "__init__.py": "",
    "net.py": NET,
    "layers.py": "import flax.linen as nn\nfrom . import last_one as l\n\nlast = l.last\n",
    "last_one.py": "import flax.linen as nn\ndef last(n):\n    return nn.Conv(n, (3, 3))\n",
    "nets.py": "import flax\nfrom cae_jax.types import Reconstruction\n",
    "beside.py": "not = imported\n",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images, a net of one's own in a package, and a run of it."""
    root = tmp_path_factory.mktemp("provenance")
    (root / "own_nets").mkdir()
    for name, text in FILES.items():
        (root / "own_nets" / name).write_text(text)
    with images_in(root, "tablet", "weave") as patch:
        patch.syspath_prepend(root)
        job.run(config_of(root, "finished", epochs=1, model="own_nets.net:Tiny"))
        yield root
    for name in [name for name in sys.modules if name.startswith("own_nets")]:
        del sys.modules[name]


@pytest.fixture
def run(world, tmp_path):
    """A copy of the finished run and its images, and its config."""
    for name in ("in", "finished"):
        shutil.copytree(world / name, tmp_path / name)
    config = config_of(tmp_path, "finished", epochs=1, model="own_nets.net:Tiny")
    job.run(config)  # the copies are known from now on
    return config, tmp_path


def again(config):
    with pytest.raises(DataError) as caught:
        job.run(config)
    said = str(caught.value)
    assert said.startswith(f"{folder_of(config)}: finished before, but with other images than")
    assert "\n" not in said
    assert "--overwrite" in said
    return said


def test_the_files_alone_are_looked_at_where_they_are_as_they_were(run, monkeypatch, capsys):
    config, root = run
    monkeypatch.setattr(data, "read", None)
    job.run(config)
    shutil.rmtree(root / "in" / "weave")  # another category's
    job.run(config)
    (root / "in" / "runs").mkdir()
    assert capsys.readouterr().err.count("finished before") == 2


def test_more_training_images_are_named(run):
    config, root = run
    good = root / "in" / "tablet" / "train" / "good"
    shutil.copy(good / "000.png", good / "999.png")
    assert "1 training image more (train/good/999.png)" in again(config)
    (good / "999.png").unlink()
    shutil.copy(good / "000.png", good / "001.png")
    assert "1 training image with other pixels (train/good/001.png)" in again(config)
    table = job.run(config.changed(overwrite=True))
    assert len(table) == 1
    job.run(config)


def test_other_test_images_can_be_evaluated(run, capsys):
    config, root = run
    good = root / "in" / "tablet" / "test" / "good"
    shutil.copy(good / "000.png", good / "001.png")
    said = again(config)
    assert "1 test image with other pixels or another mask (test/good/001.png)" in said
    assert "experiments.evaluate judges these" in said
    job.evaluate_again(root / "finished")
    capsys.readouterr()
    job.run(config)
    assert "finished before" in capsys.readouterr().err


def test_the_same_images_in_another_place_are_the_same_run(run, capsys):
    config, root = run
    for path in (root / "in").rglob("*.png"):
        os.utime(path, ns=(10**18, 10**18))  # as copied there: decoding tells that they are
    (root / "in").rename(root / "moved")
    there = config.changed(data_dir=str(root / "moved"))
    job.run(there)
    assert "finished before" in capsys.readouterr().err
    job.evaluate_again(root / "finished")  # knows where they are
    (folder_of(config) / "metrics.json").unlink()  # as if it had been stopped
    (root / "moved").rename(root / "again")
    job.run(there.changed(data_dir=str(root / "again")))
    assert "goes on after epoch 1 of 1" in capsys.readouterr().err


def test_edited_code_of_ones_own_is_said_wherever_the_run_is_used(run, world, capsys):
    config, root = run
    names = ["own_nets", *(f"own_nets.{name}" for name in ("last_one", "layers", "net", "nets"))]
    assert [*own_code.hashes(config)] == sorted(names)
    file = world / "own_nets" / "last_one.py"
    before = file.read_bytes()
    try:
        file.write_bytes(before.replace(b"\n", b"\r\n"))  # as another system writes it
        job.run(config)
        assert "warning" not in capsys.readouterr().err
        file.write_bytes(before + b"# edited\n")
        for use in (
            lambda: job.run(config),
            lambda: cae_jax.load(root / "finished"),
            lambda: job.evaluate_again(root / "finished"),
        ):
            use()
            (said,) = [x for x in capsys.readouterr().err.splitlines() if "the code is" in x]
            assert said.startswith(f"warning: {folder_of(config)}: own_nets.last_one: ")
        versions = folder_of(config) / "versions.json"
        versions.write_text(versions.read_text().replace('"code"', '"of an older version"'))
        job.run(config)
        assert "the code is" not in capsys.readouterr().err
    finally:
        file.write_bytes(before)
    assert own_code.hashes(config.changed(model="bergmann")) == {}


def test_other_words_for_the_names_of_files_are_looked_into(run, monkeypatch):
    config, _ = run
    (cell,) = cells.find(config.folder)
    decoded = []
    monkeypatch.setattr(provenance, "read_split", lambda each: decoded.append(each) or 1 / 0)
    provenance.check_images(cell.folder, cell.config)
    assert decoded == []
    with pytest.raises(ZeroDivisionError):
        provenance.check_images(cell.folder, cell.config.changed(mask_pattern="{stem}_x"))
