"""A folder scored in a stream: the detector's numbers, whole rows, and few images in memory."""

import csv
import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
import time
import weakref

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks import scoring_process
from cae_jax.data import images, synthetic
from cae_jax.runs import evaluate, job
from cae_jax.runs.config import configure
from cae_jax.serving import folder, stream, trained
from cae_jax.types import DataError, UsageError

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("a,b.png", 'say "x".png', "line\nbreak.png", "ünder/ß.PNG", "ünder/z.tiff", "rgb.jpg")


def make_world(root):
    """A trained run in root/run, and in root/in twelve images of several formats and sizes."""
    counts = {"n_train": 10, "n_good": 6, "n_defective_per_kind": 1}
    synthetic.write(root / "data", ["tablet"], 32, 1, 0, **counts)
    flags = {"dataset": "folder", "data_dir": str(root / "data"), "category": "tablet"}
    flags |= {"workdir": str(root / "run"), "model": "small_net:Tiny"}
    sizes = {"image_size": 32, "patch_size": 16, "stride": 8, "num_patches": 32, "batch_size": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr(evaluate, "_plot", lambda *_: None)
        job.run(configure(**flags, **sizes, epochs=1, validation_fraction=0.4))
    shutil.copytree(root / "data/tablet/test/good", root / "in/good")
    (root / "in/ünder").mkdir()
    rng = np.random.default_rng(0)
    for name, shape in zip(NAMES, [(32, 32), (17, 40), (33, 8), (5, 5), (32, 32), (40, 30, 3)],
                           strict=True):  # fmt: skip
        array = rng.integers(0, 256, shape, np.uint8)
        if name.endswith("tiff"):
            array = array.astype(np.uint16) * 201
        Image.fromarray(array).save(root / "in" / name)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("stream")
    make_world(root)
    return root


@pytest.fixture(scope="module")
def opened(world):
    return trained.open_run(world / "run", percent=1)


def rows_of(output):
    with open(output / "scores.csv", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def whole(world, opened):
    """The bytes of the table that one start writes."""
    found = folder.score_folder(opened, world / "in", world / "out", batch_size=5, save_maps=True)
    table = rows_of(world / "out")
    assert found == (12, sum(row[3] == "1" for row in table), 0)
    assert (world / "out/left_out.csv").read_text() == "path,cause\n"
    return (world / "out/scores.csv").read_bytes()


def test_it_says_what_the_detector_says(world, opened, whole):
    head, *rows = rows_of(world / "out")
    assert head == ["path", "distance", "p_value", "defective", "bytes", "modified", "sha256"]
    assert [row[0] for row in rows] == sorted([*NAMES, *(f"good/00{i}.png" for i in range(6))])
    for path, distance, p_value, defective, size, modified, digest in rows:
        file = (world / "in" / path).stat()
        assert (int(size), int(modified)) == (file.st_size, file.st_mtime_ns)
        assert digest == hashlib.sha256((world / "in" / path).read_bytes()).hexdigest()
        verdict = opened.detector.score(world / "in" / path)
        assert float(distance) == pytest.approx(verdict.distance, rel=1e-5)
        assert float(p_value) == pytest.approx(verdict.p_value)
        assert defective == str(int(verdict.defective))
    assert {row[3] for row in rows} == {"0", "1"}
    assert len({row[2] for row in rows}) > 1


def test_maps_have_the_size_of_the_file(world, opened, whole):
    verdict = opened.detector.score(world / "in/a,b.png")
    with Image.open(world / "out/anomaly_maps/a,b.png.tiff") as file:
        np.testing.assert_allclose(np.asarray(file), verdict.residual, rtol=1e-3, atol=1e-2)
    with Image.open(world / "out/predicted_masks/a,b.png.png") as file:
        assert np.mean((np.asarray(file) > 0) == verdict.mask) > 0.99
    for kind, suffix in (("anomaly_maps", "tiff"), ("predicted_masks", "png")):
        with Image.open(world / f"out/{kind}/ünder/ß.PNG.{suffix}") as file:
            assert file.size == (5, 5)
        assert len([p for p in (world / "out" / kind).rglob("*") if p.is_file()]) == 12


def copy_of(world, to):
    shutil.copytree(world / "out", to)
    return to


def score(world, opened, output, **options):
    return folder.score_folder(
        opened, world / "in", output, batch_size=5, save_maps=True, **options
    )


@pytest.mark.parametrize("cut", [3, 40, 100, 333, -70, -1])
def test_a_table_cut_anywhere_is_completed(world, opened, whole, tmp_path, monkeypatch, cut):
    output = copy_of(world, tmp_path / "out")
    (output / "scores.csv").write_bytes(whole[:cut])
    kept = set(whole_rows(whole[:cut]))
    read = []
    decode = images.seen
    monkeypatch.setattr(images, "seen", lambda *a: read.append(a[0]) or decode(*a))
    assert score(world, opened, output).n_images == 12
    assert (output / "scores.csv").read_bytes() == whole
    assert len(read) == 12 - len(kept)
    score(world, opened, output)
    assert len(read) == 12 - len(kept)


def whole_rows(data):
    """The paths of the whole rows: a quoted line break ends none."""
    text = data.decode("utf-8", "replace")
    ends = [i for i, c in enumerate(text) if c == "\n" and text[:i].count('"') % 2 == 0]
    return (
        [row[0] for row in csv.reader(io.StringIO(text[: ends[-1]], newline=""))][1:]
        if ends
        else []
    )


@pytest.mark.parametrize("at", [0, 2])
def test_a_start_that_died_goes_on(world, opened, whole, tmp_path, monkeypatch, at):
    begin, calls = stream._begin, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) > at:
            raise KeyboardInterrupt
        return begin(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stream, "_begin", dies)
        with pytest.raises(KeyboardInterrupt):
            score(world, opened, tmp_path / "out")
    before = (tmp_path / "out/scores.csv").read_bytes()
    assert whole.startswith(before)
    assert len(whole_rows(before)) == 5 * max(0, at - 1)  # one batch was in flight
    score(world, opened, tmp_path / "out")
    assert (tmp_path / "out/scores.csv").read_bytes() == whole


def test_bad_images(world, opened, whole, tmp_path, monkeypatch):
    root, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(world / "in", root)
    (root / "good/000.png").write_text("no image")
    (root / "rgb.jpg").write_bytes(b"")
    (root / "gone.png").symlink_to("nowhere.png")
    find = folder.find
    monkeypatch.setattr(folder, "find", lambda *a, **k: sorted([*find(*a, **k), "vanished.png"]))
    with pytest.raises(DataError, match=r"in/gone\.png: is a broken link.*--on_bad_image=skip"):
        folder.score_folder(opened, root, output, batch_size=5)
    # the rest of its batch was scored
    kept = ["a,b.png", *(f"good/00{i}.png" for i in (1, 2))]
    assert whole_rows((output / "scores.csv").read_bytes()) == kept
    found = folder.score_folder(opened, root, output, batch_size=5, on_bad_image="skip")
    assert (found.n_images, found.n_left_out) == (10, 4)
    with open(output / "left_out.csv", newline="") as file:
        head, *left_out = csv.reader(file)
    assert head == ["path", "cause"]
    wanted = {
        "gone.png": "broken link",
        "good/000.png": "is a text file",
        "rgb.jpg": "is empty",
        "vanished.png": "No such file",
    }
    assert [path for path, _ in left_out] == list(wanted)
    for path, cause in left_out:
        assert wanted[path] in cause
    # what was mended meanwhile takes its place
    for name in ("good/000.png", "rgb.jpg"):
        shutil.copy2(world / "in" / name, root / name)
    (root / "gone.png").unlink()
    monkeypatch.setattr(folder, "find", find)
    found = folder.score_folder(opened, root, output, batch_size=5, on_bad_image="skip")
    assert (found.n_images, found.n_left_out) == (12, 0)
    assert (output / "scores.csv").read_bytes() == whole
    with pytest.raises(UsageError, match="--on_bad_image 'skp'"):
        folder.score_folder(opened, root, output, on_bad_image="skp")


def test_another_job_s_folder_is_refused(world, opened, whole, tmp_path):
    output = copy_of(world, tmp_path / "out")
    (output / "notes.txt").write_text("mine")
    larger = jax.tree.map(lambda leaf: leaf * 1.5, opened.variables)
    other = dataclasses.replace(opened, variables=larger)
    for loaded, words in (
        (trained.open_run(world / "run", percent=50), "percent=1, now 50"),
        (other, "weights="),
    ):
        with pytest.raises(UsageError, match=f"{output}: holds scores with {words}"):
            score(world, loaded, output)
    with pytest.raises(UsageError, match=f"images={world / 'in'}, now {world / 'in/good'}"):
        folder.score_folder(opened, world / "in/good", output, save_maps=True)
    assert (output / "scores.csv").read_bytes() == whole
    found = folder.score_folder(other, world / "in/good", output, overwrite=True)
    assert found.n_images == 6
    left = ["left_out.csv", "notes.txt", "run.json", "scores.csv"]
    assert sorted(path.name for path in output.iterdir()) == left
    distances = [float(row[1]) for row in rows_of(output)[1:]]
    before = [float(row[1]) for row in rows_of(world / "out") if "good" in row[0]]
    assert not np.isclose(distances, before, rtol=1e-2).any()


def test_what_is_no_such_job_is_never_touched(world, opened, tmp_path):
    with pytest.raises(UsageError, match=r"scores\.csv lies in it without a run\.json"):
        score(world, opened, opened.cell.folder, overwrite=True)
    assert (opened.cell.folder / "scores.csv").exists()
    (tmp_path / "run.json").write_text('{"name": "theirs"}')
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not of such a job"):
            score(world, opened, tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(UsageError, match="--batch_size=0"):
        folder.score_folder(opened, world / "in", tmp_path / "new", batch_size=0)
    with pytest.raises(UsageError, match=r"--images=.*\*\.png: no such folder"):
        folder.score_folder(opened, world / "in/*.png", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_masks_in_a_data_sets_folder_are_said(tmp_path, capsys):
    folder._say_of_masks(tmp_path, ["test/mask.png", "maskless/1.png"])
    assert capsys.readouterr().err == ""
    folder._say_of_masks(tmp_path, ["test/1.png", "Ground Truth/dent/1.png", "masks/2.png"])
    assert "2 of 3 images lie in folders with a name for masks (Gr" in capsys.readouterr().err


def test_find(tmp_path):
    names = ["b.png", "B.JPEG", "a/c.bmp", "a/.hidden.png", ".git/d.png", "a/e.txt", "out/f.png"]
    for name in (*names, "else/g.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a/round").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "else")
    found = folder.find(tmp_path, but=tmp_path / "out")
    assert found == ["B.JPEG", "a/c.bmp", "b.png", "else/g.tif"]
    assert folder.find(tmp_path, recursive=False) == ["B.JPEG", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no image in it"):
        folder.find(tmp_path / "empty")
    with pytest.raises(DataError, match="none: cannot be listed: No such file"):
        folder.find(tmp_path / "none")


def test_few_images_are_in_memory_at_once(world, opened, monkeypatch):
    monkeypatch.setattr(stream, "_THREADS", 2)
    decode, alive, peak, begun = images.seen, set(), [], []

    def counted(*arguments):
        begun.append(1)
        pixels = decode(*arguments)
        alive.add(id(pixels))
        weakref.finalize(pixels, alive.discard, id(pixels))
        peak.append(len(alive))
        return pixels

    monkeypatch.setattr(images, "seen", counted)
    at = stream.scoring_call(opened.cell.config, opened.variables, batch_size=3)
    scored, lead = 0, []
    for batch in stream.scored(at, world / "in", ["rgb.jpg"] * 70):
        time.sleep(0.02)  # a slow consumer: decoding would run away
        scored += len(batch.paths)
        lead.append(len(begun) - scored)
    assert scored == len(begun) == 70
    assert 3 <= max(lead) <= 2 * 3 + 2 + 2 * 3
    assert 3 <= max(peak) <= 2 * 3 + 2 + 3
    assert not alive


def test_the_benchmark_measures_what_was_scored(world, opened, tmp_path):
    root = shutil.copytree(world / "in", tmp_path / "in")
    found = scoring_process.measure(opened.cell.config, root, 5)
    assert len(rows_of(tmp_path / "in.scores")) == found["n_images"] + 1 == 13
    speeds = found["images_per_second"]
    assert 0 < speeds["end_to_end"] < 1.5 * min(speeds["decoding"], speeds["call"])
    assert speeds[found["bottleneck"]] == min(speeds["decoding"], speeds["call"])
    assert 100 < found["peak_memory_mb"] < 100_000


def test_four_devices_give_the_numbers_of_one(world, whole):
    """As typed, in a process of its own, since the number of devices is fixed at the start."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "XDG_CACHE_HOME": str(world / "cache4"),
    }
    flags = [f"--workdir={world / 'run'}", f"--images={world / 'in'}", "--percent=1", "--seed=0"]
    flags += [f"--output={world / 'four'}", "--batch_size=5", "--save_maps"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.score", *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, wanted = rows_of(world / "four"), rows_of(world / "out")
    defective = sum(row[3] == "1" for row in wanted)
    assert f"12 images scored, {defective} of them defective, 0 left out" in done.stdout
    assert [row[0] for row in found] == [row[0] for row in wanted]
    for field in (1, 2, 3):
        numbers, one = (np.array([row[field] for row in t[1:]], float) for t in (found, wanted))
        np.testing.assert_allclose(numbers, one, rtol=1e-5)
    name = "anomaly_maps/rgb.jpg.tiff"
    maps = [np.asarray(Image.open(world / folder / name)) for folder in ("four", "out")]
    np.testing.assert_allclose(*maps, rtol=1e-3, atol=1e-2)


def test_a_file_that_was_replaced_is_judged_anew(world, opened, tmp_path, capsys):
    """A cracked product copied over a good one must not stay good."""
    root, output = tmp_path / "in", tmp_path / "out"
    shutil.copytree(world / "in", root)
    folder.score_folder(opened, root, output, batch_size=5)
    before = {
        row["path"]: row for row in csv.DictReader((output / "scores.csv").read_text().splitlines())
    }
    good, other = "good/000.png", "good/001.png"
    shutil.copy(root / other, root / good)  # another content
    os.utime(root / other)  # the same at another time
    capsys.readouterr()
    folder.score_folder(opened, root, output, batch_size=5)
    assert "1 images are not the files that were scored" in capsys.readouterr().err
    after = {
        row["path"]: row for row in csv.DictReader((output / "scores.csv").read_text().splitlines())
    }
    assert after[good]["distance"] == before[other]["distance"] != before[good]["distance"]
    changed = {path for path in after if after[path] != before[path]}
    assert changed == {good}
    digest = hashlib.sha256((root / good).read_bytes()).hexdigest()
    assert (after[good]["sha256"], int(after[good]["bytes"])) == (
        digest,
        (root / good).stat().st_size,
    )


def test_a_table_that_does_not_tell_its_files_is_begun_anew(world, opened, whole, tmp_path, capsys):
    output = copy_of(world, tmp_path / "out")
    rows = [line.rsplit(",", 3)[0] for line in whole.decode().splitlines()]
    assert rows[0] == "path,distance,p_value,defective"
    (output / "scores.csv").write_text("\n".join(rows) + "\n")
    score(world, opened, output)
    assert (output / "scores.csv").read_bytes() == whole
    assert "does not tell which files it is of" in capsys.readouterr().err
