"""The commands as typed: what bad input is answered with, and that good input goes through."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from command_lines import ROOT, process, run_all
from PIL import Image

from cae_jax.data import synthetic
from cae_jax.runs.config import configure
from cae_jax.runs.machine import lock

TINY = """
import flax.linen as nn
from cae_jax.types import Reconstruction

class Net(nn.Module):
    channels: int = 1
    patch_size: int = 32

    @nn.compact
    def __call__(self, x, train=False):
        hidden = nn.relu(nn.Conv(4, (3, 3), strides=(2, 2))(x))
        return Reconstruction(nn.ConvTranspose(self.channels, (4, 4), (2, 2))(hidden), {})
"""
SIZES = "--image_size=64 --patch_size=32 --stride=16 --num_patches=64 --batch_size=32 --epochs=1"
FOLDER = "--dataset=folder --category=tablet"
# name: command line; exit code; words of the one line on standard error. {x} is the test's folder;
# "run FAULT" is a good command line that meets one of the runner's faults.
BAD = {
    "flag": ("run --epoch=3", 2, ["'epoch'", "Did you mean", "epochs"]),
    "value": ("run --epochs=three", 2, ["epochs", "three"]),
    "word": ("run epochs=3", 2, ["not a flag: 'epochs=3'", "--name=value"]),
    "flagfile": ("run --flagfile={x}/none.flags", 2, ["none.flags"]),
    "dataset": ("run --dataset=foldr", 2, ["unknown --dataset 'foldr'", "did you mean folder"]),
    "model": ("run --model=bergman", 2, ["'bergman'", "did you mean bergmann"]),
    "dotted model": ("run --model=no_fork.net", 2, ["--model=no_fork.net", "no_fork"]),
    "option": ("run --model_options=decodr=mirror", 2, ["'decodr'", "did you mean decoder"]),
    "category": ("run --category=tablt", 2, ["category 'tablt'", "did you mean tablet"]),
    "their category": (
        "run --dataset=folder --category=tabl --data_dir={x}/in",
        2,
        ["did you mean tablet"],
    ),
    "skip": ("run --on_bad_image=skp", 2, ["'skp'", "did you mean skip"]),
    "channels": ("run --channels=2", 2, ["--channels=2"]),
    "patch": ("run --image_size=64 --patch_size=128", 2, ["--patch_size=128", "=64"]),
    "stride": ("run --patch_size=32 --stride=33", 2, ["--stride=33", "--patch_size=32"]),
    "multiple": ("run --patch_size=40 --stride=9", 2, ["bergmann", "multiple of 16", "40"]),
    "batch": ("run --batch_size=9 --num_patches=8", 2, ["--batch_size=9", "--num_patches=8"]),
    "rate": ("run --learning_rate=nan", 2, ["--learning_rate=nan"]),
    "no data_dir": ("run --dataset=folder", 2, ["--dataset=folder needs --data_dir"]),
    "data_dir": (f"run {FOLDER} --data_dir={{x}}/none", 2, ["{x}/none", "no such folder"]),
    "empty": (f"run {FOLDER} --data_dir={{x}}/empty", 1, ["{x}/empty holds no category"]),
    "no good": (
        f"run {FOLDER} --data_dir={{x}}/nogood",
        1,
        ["{x}/nogood/tablet: test, and no train/good"],
    ),
    "no images": (f"run {FOLDER} --data_dir={{x}}/noimage", 1, ["train/good", "no image"]),
    "truncated": (f"run {FOLDER} --data_dir={{x}}/cut", 1, ["train/good/003.png", "truncated"]),
    "no image": (f"run {FOLDER} --data_dir={{x}}/text", 1, ["test/good/001.png", "is a text file"]),
    "mask": (f"run {FOLDER} --data_dir={{x}}/mask", 1, ["spot/000_mask.png", "30 x 20", "64 x 64"]),
    "few": (f"run {FOLDER} --data_dir={{x}}/few", 1, ["1 training", "--validation_fraction"]),
    "other run": (
        f"run {FOLDER} --data_dir={{x}}/in",
        2,
        ["--learning_rate=0.77, now ", "--overwrite"],
    ),
    "workdir": (f"run {FOLDER} --data_dir={{x}}/in", 1, ["{x}/file/runs", "Not a directory"]),
    "in use": ("run held", 2, ["tiny_net.Net/seed_0: in use by process", "since 2", "wait for"]),
    "full": ("run fsync", 1, ["flags.txt': cannot be written: No space left on device"]),
    "full file": ("run write", 1, ["some/file: no space left; what was written before is whole"]),
    "full disk": ("run disk", 1, ["seed_0: no space left for a checkpoint of 1.28 kB"]),
    "run stopped": ("run interrupt", 130, ["interrupted; the same command goes on from the last"]),
    "export stopped": (
        "export --workdir={x}/other --output={x}/new",
        130,
        ["interrupted; nothing was written, the same command starts anew"],
    ),
    "evaluation stopped": (
        "evaluate --workdir={x}/other",
        130,
        ["interrupted; the same command judges all runs anew"],
    ),
    "drawing stopped": (
        "make_synthetic --output_dir={x}/new",
        130,
        ["interrupted; remove what was written before the same command"],
    ),
    "description stopped": ("describe --methods=all", 130, ["interrupted"]),
    "nothing to evaluate": ("evaluate", 2, ["--workdir is needed"]),
    "no run": ("evaluate --workdir={x}/empty", 2, ["--workdir={x}/empty: no run in it"]),
    "not trained": ("evaluate --workdir={x}/other", 1, ["seed_0: not trained to the end"]),
    "distance": ("evaluate --workdir={x}/other --distance=l3", 2, ["--distance 'l3'", "l2"]),
    "loss": ("run --loss=sim", 2, ["--loss 'sim'", "did you mean ssim"]),
    "augment": ("run --category=weave --augment=auto", 2, ["--augment=auto", "'weave'"]),
    "area": ("run --image_size=64 --patch_size=32 --minimum_area=9999", 2, ["--minimum_area=9999"]),
    "precision": ("run --precision=fp16", 2, ["--precision 'fp16'"]),
    "members": ("run --members=vmpa", 2, ["--members 'vmpa'", "did you mean vmap"]),
    "nothing to report": ("report", 2, ["--workdir is needed"]),
    "no run to report": ("report --workdir={x}/empty", 2, ["{x}/empty: no"]),
    "nothing to score": ("score --workdir={x}/done", 2, ["--images is needed"]),
    "no run to score": (
        "score --workdir={x}/empty --images={x}/in --output={x}/new",
        2,
        ["{x}/empty: no run in it"],
    ),
    "no output": ("make_synthetic", 2, ["--output_dir is needed"]),
    "not empty": ("make_synthetic --output_dir={x}/in", 2, ["{x}/in/tablet", "not an empty"]),
    "too small": ("make_synthetic --output_dir={x}/new --image_size=9", 2, ["--image_size=9"]),
}
STOPPED = {name: name.split()[0] for name in BAD if name.endswith(" stopped")}
NET = "--model=tiny_net:Net"
GOOD = {
    "first": ("run", [*FOLDER.split(), "--data_dir={x}/in", NET, "--workdir={x}/done"]),
    "again": ("run", [*FOLDER.split(), "--data_dir={x}/in", NET, "--workdir={x}/done"]),
    "evaluated": ("evaluate", ["--workdir={x}/done"]),
    "skipped": (
        "run",
        [*FOLDER.split(), "--data_dir={x}/cut", NET, "--on_bad_image=skip", "--workdir={x}/skip"],
    ),
    "written": ("make_synthetic", ["--output_dir={x}/made", "--category=weave", "--image_size=40"]),
}


def command(name):
    """Returns module, arguments and fault of a line of BAD, sizes and workdir filled in."""
    module, *arguments = BAD[name][0].split()
    if module != "run":
        return module, arguments, STOPPED.get(name, "")
    if arguments[0].startswith("--"):
        workdir = {"other run": "other", "workdir": "file/runs"}.get(name, "unused")
        sizes = SIZES.split() if "--data_dir" in arguments[-1] else []
        return module, [*arguments, *sizes, f"--workdir={{x}}/{workdir}"], ""
    if "=" in arguments[0]:
        return module, arguments, ""
    usual = [*FOLDER.split(), "--data_dir={x}/in", NET, *SIZES.split()]
    fault = arguments[0] if arguments[0] != "held" else ""
    return module, [*usual, f"--workdir={{x}}/{arguments[0]}"], fault


def make_inputs(x):
    counts = {"n_train": 10, "n_good": 3, "n_defective_per_kind": 1}
    synthetic.write(x / "in", ["tablet"], 64, 1, 0, **counts)
    for name in ("nogood", "noimage", "cut", "text", "mask", "few"):
        shutil.copytree(x / "in", x / name)
    shutil.rmtree(x / "nogood/tablet/train")
    shutil.copytree(x / "in/tablet", x / "nogood/other")
    for path in (x / "noimage/tablet/train/good").iterdir():
        path.unlink()
    for path in sorted((x / "few/tablet/train/good").iterdir())[1:]:
        path.unlink()
    bad = x / "cut/tablet/train/good/003.png"
    bad.write_bytes(bad.read_bytes()[:-300])
    (x / "text/tablet/test/good/001.png").write_text("no image")
    mask = np.full((20, 30), 255, np.uint8)
    Image.fromarray(mask).save(x / "mask/tablet/ground_truth/spot/000_mask.png")
    (x / "empty").mkdir()
    (x / "file").write_text("a file")
    (x / "tiny_net.py").write_text(TINY)
    sizes = {"image_size": 64, "patch_size": 32, "stride": 16, "num_patches": 64, "batch_size": 32}
    other = configure(
        dataset="folder", data_dir=str(x / "in"), category="tablet", learning_rate=0.77, **sizes
    )
    cell = x / "other/tablet/bergmann/seed_0"
    cell.mkdir(parents=True)
    (cell / "flags.txt").write_text(other.resolved().to_flagfile())


@pytest.fixture(scope="module")
def x(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def answers(x):
    """Exit code, standard output and standard error of every command line, by name."""
    lines = {name: command(name) for name in BAD}
    for name, (module, arguments) in GOOD.items():
        sizes = SIZES.split() if module == "run" else []
        lines[name] = (module, [*arguments, *sizes], "")
    lines["preset"] = ("run", ["--epochs=0"], "")
    lines["bug"] = ("run", ["--workdir={x}/unused"], "bug")
    lines["help"] = ("run", ["--help"], "")
    lines = json.loads(json.dumps(lines).replace("{x}", str(x)))
    path = os.pathsep.join([str(x), str(ROOT)])
    with lock.hold(x / "held/tablet/tiny_net.Net/seed_0"):
        return run_all(lines, x / "empty", PYTHONPATH=path, XDG_CACHE_HOME=str(x / "cache"))


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_clear_line(answers, x, name):
    _, wanted, words = BAD[name]
    code, _, err = answers[name]
    assert code == wanted, err
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert err.splitlines()[-1] == errors[0]
    for word in words:
        assert word.replace("{x}", str(x)) in errors[0]


def test_what_was_refused_left_nothing_behind(answers, x):
    assert not (x / "unused").exists()
    assert not (x / "new").exists()
    assert [path.name for path in (x / "other").rglob("*") if path.is_file()] == ["flags.txt"]
    assert (x / "file").read_text() == "a file"
    assert list((x / "empty").iterdir()) == []
    for fault in ("fsync", "write", "disk"):
        assert list((x / fault).rglob("*.tmp")) == []
        assert list((x / fault).rglob("scores.csv")) == []


def test_a_bug_keeps_its_traceback(answers):
    code, _, err = answers["bug"]
    assert code == "none"
    assert "ValueError: a bug" in err
    assert "error: " not in err.split("Traceback")[0]


def test_a_run_prints_its_results_and_where_they_lie(answers, x):
    code, out, err = answers["first"]
    assert code == 0, err
    assert "Results: folder" in out
    assert "test defect     4" in out  # the summary of what was found
    assert f"Everything lies in {x / 'done'}" in out
    assert "train tablet: 64/64 patches" in err
    assert (x / "done/results.csv").is_file()


def test_the_same_command_prints_the_same_at_once(answers):
    code, out, err = answers["again"]
    assert code == 0
    assert "finished before" in err
    assert "train tablet" not in err
    table = out[out.index("Results:") :]
    assert table == answers["first"][1][-len(table) :]


def test_evaluate_prints_the_same_accuracies(answers):
    code, out, err = answers["evaluated"]
    assert code == 0, err
    row, wanted = (
        next(line.split() for line in text.splitlines() if line.startswith("tablet  "))
        for text in (out, answers["first"][1])
    )
    assert row[:8] == wanted[:8]  # after these come times


def test_a_bad_image_can_be_skipped(answers, x):
    code, out, err = answers["skipped"]
    assert code == 0, err
    assert "left out: 1" in out
    left_out = next((x / "skip").rglob("left_out.csv")).read_text()
    assert left_out.startswith("path,cause\ntrain/good/003.png,")


def test_the_synthetic_data_are_written(answers, x):
    code, out, err = answers["written"]
    assert code == 0, err
    assert f"weave written to {x / 'made'}" in out
    with Image.open(x / "made/weave/train/good/000.png") as image:
        assert image.size == (40, 40)


def test_without_data_set_the_quickstart_s_flags_hold(answers):
    code, _, err = answers["preset"]
    assert (code, err.splitlines()) == (
        2,
        [
            "no --dataset given: flags from --preset=quickstart",
            "error: --epochs=0: must be at least 1",
        ],
    )


def test_help_lists_the_flags(answers):
    code, out, _ = answers["help"]
    assert code == 0
    for name in ("epochs", "data_dir", "on_bad_image", "patch_size"):
        assert f"--{name}:" in out
    assert "passes over the training patches" in out


def test_a_process_of_its_own_exits_the_same():
    done = process(sys.executable, "-m", "experiments.run", "--dataset=folder", "--stride=500")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --stride=500 is outside 1..128")
    assert len(done.stderr.splitlines()) == 1
