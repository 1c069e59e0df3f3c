"""Bad files of every kind and place: what the user sees, the exit code, what is left on disk."""

import csv
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from command_lines import ENVIRONMENT, ROOT, run_all
from PIL import Image

from cae_jax import data
from cae_jax.data import formats
from cae_jax.data.frame import Frame
from cae_jax.runs import evaluate, job
from cae_jax.runs.config import configure
from cae_jax.types import DataError

RNG = np.random.default_rng(50)
GRAY = RNG.integers(0, 256, (40, 32), np.uint8)
RGB = RNG.integers(0, 256, (40, 32, 3), np.uint8)
SIZES = {"image_size": 32, "patch_size": 16, "stride": 8, "num_patches": 32, "batch_size": 32}
NOT_AN_IMAGE = r"(is (a|no|cut) .+|begins with nothing but zero bytes.*)"
CUT = rf"({NOT_AN_IMAGE}|cannot be decoded: .+)"
LIMITS = "the limits are 131071 a side and 134217728 in all"
HINT = "; --on_bad_image=skip lists what is bad and goes on"
ODD = [
    *("with space.png", "'single' \"double\".png", "line\nbreak.png", "tab\t.png", "ünï 零.png"),
    *("a,b;c.png", "-dash.png", "$HOME `x` %s {0}.png", os.fsdecode(b"latin-\xe4.png")),
]


def encode(image, form="PNG", **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bomb(width, height):
    """A whole PNG of a few kilobytes at most, whose header promises width x height pixels."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width // 8 + 1) * min(height, 1000)), 9)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def animated(form):
    return encode(GRAY, form, save_all=True, append_images=[Image.fromarray(GRAY[::-1])])


def floats(value):
    pixels = np.full((40, 32), 0.5, np.float32)
    pixels[3, 4] = value
    return encode(pixels, "TIFF")


def truncated():
    for suffix, form in (("png", "PNG"), ("jpg", "JPEG"), ("tiff", "TIFF"), ("bmp", "BMP")):
        whole = encode(RGB, form)
        for tenth in range(1, 10):
            yield f"cut-{tenth}.{suffix}", (whole[: len(whole) * tenth // 10], CUT)


# name: the file's bytes, or where it links to; what the user is told of it.
BAD = {
    "empty.png": (b"", r"is empty \(0 bytes\)"),
    "text.png": (b"not an image\n", NOT_AN_IMAGE),
    "gif.png": (animated("GIF"), NOT_AN_IMAGE),
    "animated.png": (animated("PNG"), "has several frames; one is expected"),
    "pages.tiff": (animated("TIFF"), r"has 2 pages \(32 x 40, 32 x 40\), none of them .*"),
    "nan.tiff": (floats(np.nan), "has float pixels from nan to nan; they must be finite and .*"),
    "infinity.tiff": (
        floats(np.inf),
        "has float pixels from 0.5 to inf; they must be finite and .*",
    ),
    "minus.tiff": (floats(-1), "has float pixels from -1 to 0.5; they must be .* within 0 and 1"),
    "int32.tiff": (
        encode(GRAY.astype(np.int32), "TIFF"),
        r"has integer pixels \(int32\) whose white is not known: .*",
    ),
    "wide.png": (bomb(200000, 10), f"is 200000 x 10 pixels; {LIMITS}"),
    "bomb.png": (bomb(50000, 50000), f"is 50000 x 50000 pixels; {LIMITS}"),
    "square bomb.png": (bomb(16384, 16384), f"is 16384 x 16384 pixels; {LIMITS}"),
    "dangling.png": ("nowhere.png", "is a broken link to 'nowhere.png'"),
    "loop.png": ("loop.png", "cannot be read: Too many levels of symbolic links"),
    **dict(truncated()),
}
TYPED = ["empty.png", "bomb.png", "loop.png", "cut-5.png"]  # tried as commands


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(GRAY, "JPEG", exif=exif)


def palette():
    image = Image.fromarray(GRAY)
    image.putpalette(bytes(range(256)) * 3)
    return encode(image, transparency=bytes(range(256)))


# What is used, and how: pixels as Pillow reads them from the file of the second.
USABLE = {
    "jpeg.png": encode(GRAY, "JPEG"),  # the content decides, not the suffix
    "png.jpg": encode(GRAY),
    "webp.jpg": encode(RGB, "WEBP", lossless=True),
    "cmyk.jpg": encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "palette with alpha.png": palette(),
    "1-bit.png": encode(GRAY > 99),
    "16-bit.png": encode(GRAY.astype(np.uint16) * 257),
    "float.tiff": floats(0.25),
    "turned.jpg": turned(),
    "1x1.png": encode(GRAY[:1, :1]),
    "whole.BMP": encode(RGB, "BMP"),
    **{name: encode(np.roll(GRAY, i + 1)) for i, name in enumerate(ODD)},
}


def put(folder, name, content):
    """Writes a file, or links it to a name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.symlink_to(content) if isinstance(content, str) else path.write_bytes(content)
    return path


def category(root, n=8):
    """A category of n training and 3 good and 3 defective test images, 32 pixels."""
    for i in range(n):
        put(root / "train/good", f"{i}.png", encode(RNG.integers(0, 256, (32, 32), np.uint8)))
    for kind in ("good", "hole"):
        for i in range(3):
            put(root / f"test/{kind}", f"{i}.png", encode(RNG.integers(0, 256, (32, 32), np.uint8)))
    for i in range(3):
        put(root / "ground_truth/hole", f"{i}_mask.png", encode(GRAY[:32, :32] > 200))
    return root


def csv_rows(path):
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


@pytest.fixture(scope="module")
def nut(tmp_path_factory):
    return category(tmp_path_factory.mktemp("error") / "nut", n=2)


@pytest.mark.parametrize("part", ["train/good", "test/good", "test/hole"])
@pytest.mark.parametrize("name", BAD)
def test_reading_stops_at_a_bad_image_and_says_why(nut, name, part):
    content, cause = BAD[name]
    path = put(nut / part, name, content)
    try:
        with pytest.raises(DataError) as caught:
            data.read("folder", str(nut.parent), "nut", Frame(32, 1), 0)
    finally:
        path.unlink()
    wanted = re.escape(f"{nut}/{part}/{name}: ") + cause + HINT
    assert re.fullmatch(wanted, str(caught.value)), caught.value


@pytest.fixture(scope="module")
def skipped(tmp_path_factory):
    """A run with every bad and every odd file at once, in training and in tests."""
    x = tmp_path_factory.mktemp("skipped")
    root = category(x / "in/nut")
    for part in ("train/good", "test/good", "test/hole"):
        for name, (content, _) in BAD.items():
            put(root / part, name, content)
        for name, content in USABLE.items():
            put(root / part, name, content)
        (root / part / "a.png").mkdir()
        put(root / part, "wrong.txt", encode(GRAY))
        put(root / part, ".hidden.png", b"")
    config = configure(
        dataset="folder",
        data_dir=str(x / "in"),
        category="nut",
        model="small_net:Tiny",
        workdir=str(x / "run"),
        epochs=1,
        on_bad_image="skip",
        save_maps=True,
        **SIZES,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(x / "cache"))
        patch.setattr(evaluate, "_plot", lambda *_: None)
        job.run(config)
    return x, x / "run/nut/small_net.Tiny/seed_0"


def test_skip_lists_every_bad_file_with_its_cause_and_the_run_goes_on(skipped):
    _, cell = skipped
    head, *rows = csv_rows(cell / "left_out.csv")
    assert head == ("path", "cause")
    causes = dict(rows)
    others = {
        "a.png": "a folder without an image in it",
        "wrong.txt": r"not an image's suffix \(.*\)",
        ".hidden.png": "hidden",
    }
    wanted = {name: cause for name, (_, cause) in BAD.items()} | others
    for part in ("train/good", "test/good", "test/hole"):
        for name, cause in wanted.items():
            assert re.fullmatch(cause, causes.pop(f"{part}/{name}")), name
    without_mask = {f"test/hole/{name}" for name in USABLE}
    assert set(causes) == without_mask
    assert set(causes.values()) == {"scored, but has no mask to compare with"}
    _, *scores = csv_rows(cell / "scores.csv")
    tested = {row[0] for row in scores if row[4] == "test"}
    numbers = {f"{i}.png" for i in range(3)}
    assert tested == {f"test/{k}/{n}" for k in ("good", "hole") for n in {*USABLE, *numbers}}
    _, *repeated = csv_rows(cell / "duplicates.csv")  # the same files lie in each part
    assert len([row for row in repeated if row[2] == "exact"]) >= 2 * len(USABLE)
    metrics = json.loads((cell / "metrics.json").read_text())
    assert metrics["n_train"] + metrics["n_validation"] == 8 + len(USABLE)
    assert (metrics["n_good"], metrics["n_defective"]) == (3 + len(USABLE),) * 2
    assert len(list((cell / "anomaly_maps/nut/test/hole").iterdir())) == 3 + len(USABLE)


@pytest.fixture(scope="module")
def typed(skipped):
    """What the commands answer: a run for a bad file of some kinds, and scoring of a folder."""
    x, _ = skipped
    lines = {}
    for i, name in enumerate(TYPED):
        put(category(x / f"{i}/nut", n=2) / "train/good", name, BAD[name][0])
        flags = {"dataset": "folder", "data_dir": x / str(i), "category": "nut", **SIZES}
        flags["workdir"] = x / f"refused/{i}"
        lines[name] = ("run", [f"--{key}={value}" for key, value in flags.items()], "")
    usual = [f"--workdir={x / 'run'}", f"--images={x / 'in/nut/test/hole'}", "--batch_size=4"]
    lines["stop"] = ("score", [*usual, f"--output={x / 'stop'}"], "")
    lines["skip"] = ("score", [*usual, f"--output={x / 'skip'}", "--on_bad_image=skip"], "")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return run_all(lines, x, PYTHONPATH=path, XDG_CACHE_HOME=str(x / "cache"))


def the_error(answer):
    """The one line on standard error of a command that left with exit code 1."""
    code, out, err = answer
    assert code == 1
    assert "Traceback" not in err + out
    (line,) = (line for line in err.splitlines() if line.startswith("error: "))
    return line


@pytest.mark.parametrize("name", TYPED)
def test_a_run_leaves_nothing_on_disk(typed, skipped, name):
    x, _ = skipped
    wanted = re.escape(f"error: {x}/{TYPED.index(name)}/nut/train/good/{name}: ")
    line = the_error(typed[name])
    assert re.fullmatch(wanted + BAD[name][1] + HINT, line), line
    assert not (x / "refused").exists()


def test_a_folder_is_scored_up_to_a_bad_file_or_around_all(typed, skipped):
    x, _ = skipped
    code, out, _ = typed["skip"]
    assert code == 0
    assert f"{3 + len(USABLE)} images scored" in out
    assert f"{len(BAD)} left out" in out
    _, *rows = csv_rows(x / "skip/left_out.csv")
    assert [name for name, _ in rows] == sorted(BAD)
    for name, cause in rows:
        assert re.fullmatch(BAD[name][1], cause), name
    scores = csv_rows(x / "skip/scores.csv")
    assert {row[0] for row in scores[1:]} == {*USABLE, *(f"{i}.png" for i in range(3))}
    bad = x / "in/nut/test/hole/animated.png"
    assert the_error(typed["stop"]) == f"error: {bad}: has several frames; one is expected{HINT}"
    # whole rows of the images before it, and of the rest of its batch
    first = csv_rows(x / "stop/left_out.csv")[1]
    assert first == ("animated.png", "has several frames; one is expected")
    before = csv_rows(x / "stop/scores.csv")
    assert set(before) < set(scores)
    assert len(before) > 4


def test_names_that_are_no_text(tmp_path):
    """The summary is text all the same; a category, the name of folders to write to, is refused."""
    root = category(tmp_path / "in/nut", n=4)
    kind, file = os.fsdecode(b"kr\xe4tzer"), "line\nbreak" + os.fsdecode(b"\xff.png")
    (root / "test/hole").rename(root / "test" / kind)
    put(root / "train/good", file, b"")
    put(root / "test" / kind, os.fsdecode(b"\xfe.png"), encode(GRAY))
    split = data.hold_out(
        data.read("folder", str(root.parent), "nut", Frame(32, 1), 0, "skip"), 0.2, 0
    )
    lines = data.summary(split).encode().decode().splitlines()  # strictly UTF-8
    assert r"    'kr\udce4tzer': 4, with mask: 0" in lines
    assert r"    'train/good/line\nbreak\udcff.png': is empty (0 bytes)" in lines
    assert f"test/{kind}/\udcfe.png" in split.test_paths
    root.rename(root.parent / kind)
    with pytest.raises(
        DataError, match=r"^category 'kr\\udce4tzer': the name is not UTF-8; rename"
    ):
        data.read("folder", str(root.parent), kind, Frame(32, 1), 0)
    assert data.resolve("folder", str(root.parent), ["all"]) == (kind,)


def test_what_is_no_text_can_be_printed():
    program = r"from cae_jax.runs.command_line import main; main(lambda: print('runs/\udce4'), [])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=ENVIRONMENT | {"PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"runs/\\udce4\n"), done.stderr


def test_a_file_without_permission(tmp_path, monkeypatch):
    root = category(tmp_path / "nut")
    secret = put(root / "train/good", "secret.png", encode(GRAY))
    secret.chmod(0)
    if os.geteuid() == 0:  # root reads everything

        def refuse(path, mode):
            if os.fspath(path) == str(secret):
                raise PermissionError(13, "Permission denied", str(path))
            return open(path, mode)

        monkeypatch.setattr(formats, "open", refuse, raising=False)
    cause = "cannot be read: Permission denied"
    with pytest.raises(DataError, match=f"train/good/secret.png: {cause}{HINT}$"):
        data.read("folder", str(tmp_path), "nut", Frame(32, 1), 0)
    split = data.read("folder", str(tmp_path), "nut", Frame(32, 1), 0, "skip")
    assert split.left_out == (("train/good/secret.png", cause),)
    assert len(split.train) == 8


# name: the mask; what stops the run, or None; what skip lists of it, or None; pixels marked.
HALF = np.arange(32 * 32).reshape(32, 32) % 2 == 0
MASKS = {
    "binary": (encode(HALF), None, None, 512),
    "not binary": (encode(np.uint8(HALF) * 3), None, None, 512),
    "soft edges": (encode(np.uint8(HALF) * np.arange(32, dtype=np.uint8)), None, None, 480),
    "color": (encode(np.uint8(HALF)[..., None] * np.uint8([0, 0, 200])), None, None, 512),
    "inverted 16-bit": (encode(np.uint16(HALF) * 65535), None, None, 512),
    "all white": (encode(np.ones((32, 32), bool)), None, None, 1024),
    "all black": (
        encode(np.zeros((32, 32), bool)),
        None,
        "scored, but its mask is all black: nothing to compare with",
        0,
    ),
    "of another size": (
        encode(HALF[:, :20]),
        r"this mask is 20 x 32 pixels \(width x height\), its image 32 x 32",
        r"this mask is 20 x 32 pixels \(width x height\), its image 32 x 32",
        0,
    ),
    "truncated": (encode(HALF)[:45], CUT, CUT, 0),
    "empty file": (b"", r"is empty \(0 bytes\)", r"is empty \(0 bytes\)", 0),
    "NaN": (encode(np.full((32, 32), np.nan, np.float32), "TIFF"), *["is a mask with .*"] * 2, 0),
    "dangling": ("nowhere.png", "is a broken link to .*", "is a broken link to .*", 0),
    "missing": (None, None, "scored, but has no mask to compare with", 0),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(tmp_path, name):
    content, error, cause, n_pixels = MASKS[name]
    root = category(tmp_path / "nut", n=2)
    path = root / "ground_truth/hole/1_mask.png"
    path.unlink()
    put(path.parent, path.name, content) if content is not None else None
    put(path.parent, "7_mask.png", encode(HALF))  # one too many: never an error
    extra = ("ground_truth/hole/7_mask.png", "mask without an image, or a second of one")
    if error:
        with pytest.raises(DataError) as caught:
            data.read("folder", str(tmp_path), "nut", Frame(32, 1), 0)
        assert re.fullmatch(re.escape(f"{path}: ") + error + HINT, str(caught.value))
    how = "skip" if error else "error"
    split = data.read("folder", str(tmp_path), "nut", Frame(32, 1), 0, how)
    i = split.test_paths.index("test/hole/1.png")
    assert split.masks[i].sum() == n_pixels
    assert split.has_mask[i] == (cause is None)
    listed = [entry for entry in split.left_out if entry != extra]
    assert len(listed) == (cause is not None)
    for entry in listed:
        assert entry.path == ("ground_truth/hole/1_mask.png" if error else "test/hole/1.png")
        assert re.fullmatch(cause, entry.cause)
    assert len(split.left_out) == 1 + len(listed)
