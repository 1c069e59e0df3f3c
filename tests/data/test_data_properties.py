"""Laws of data and files that hold for every input, tried on inputs that hypothesis draws.

conftest.py makes the draws the same in every run.
"""

import collections
import csv
import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cae_jax import data, files
from cae_jax.evaluation import scores
from cae_jax.runs.config import Config, configure, flags_of
from cae_jax.serving import growing_table
from cae_jax.training import crops
from cae_jax.training.crops import epoch_crops
from cae_jax.training.schedule import KINDS, Schedule
from cae_jax.types import GOOD, DataError, Split, UsageError

SEEDS = st.integers(0, 2**31 - 1)
# \udc80 and \udcff: bytes that are no UTF-8, as Python shows them in a file's name.
ODD = st.sampled_from(",\"'\r\n\t #=\\\x0b\x85\u2028\udc80\udcff")
ANY = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
# What a file may be called: anything but NUL.
NAMES = ODD | st.text(ODD, min_size=1, max_size=4) | st.text(ODD | ANY, min_size=1, max_size=8)
LINES = NAMES.filter(lambda text: not set(text) & set("\r\n"))
FIELDS = {n: f for n, f in flags_of("autoencoder").items() if n != "method"}
TEXTS = [name for name, field in FIELDS.items() if isinstance(field.default, str)]


@st.composite
def configs(draw):
    """A record of flags that go together, with any text where any text may stand."""
    values = {}
    for field in FIELDS.values():
        low, high = field.metadata["low"], field.metadata["high"]
        if field.metadata["among"]:
            drawn = st.sampled_from(field.metadata["among"])
        elif isinstance(field.default, bool):
            drawn = st.booleans()
        elif isinstance(field.default, int):
            drawn = st.integers(low, high if high is not None else 2**40)
        elif isinstance(field.default, float):
            drawn = st.floats(low, high, allow_infinity=False, allow_nan=False)
        else:
            drawn = LINES | st.just("")
        values[field.name] = draw(drawn)
    side = values["image_size"] = draw(st.integers(32, 8192))
    values["patch_size"] = side if values["whole_image"] else draw(st.integers(8, side))
    stride = st.just(side) if values["whole_image"] else st.integers(1, values["patch_size"])
    values |= {"stride": draw(stride), "channels": draw(st.sampled_from([1, 3]))}
    values["data_dir"] = "" if values["dataset"] == "synthetic" else values["data_dir"] + "/in"
    values["model_options"] = draw(st.sampled_from(["", "a=1", " a = 1 , b=x\x85\u2028y "]))
    values["workdir"] = values["workdir"].encode("utf-8", "replace").decode()
    values["num_patches"] += values["batch_size"]
    values["minimum_area"] %= side**2
    values["top_share"] = values["top_share"] or 1.0
    values["ssim_window"] |= 1
    values["background"] = draw(st.sampled_from(["none", "white", "#00b140"]))
    values["threshold"] = draw(st.sampled_from(["", "percent:95", "f1_best"]))
    values |= {"resize": "stretch", "roi": "", "ignore": "", "tile": 0, "tile_overlap": 32}
    if values["dataset"] != "folder":
        values |= {"layout": "auto", "good_name": "", "mask_pattern": "", "test_fraction": 0.0}
    if values["residual_border"] == "crop":
        values |= {"residual_average": "pixels", "ssim_window": 3}
    return configure(**values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all examples: each writes over what the one before left."""
    return tmp_path_factory.mktemp("properties")


@given(configs())
def test_what_check_passes_goes_to_a_flagfile_and_back(found):
    found.check()
    assert Config.from_flagfile(found.to_flagfile(), "flags.txt") == found


@given(st.sampled_from(TEXTS), NAMES, st.sampled_from("\r\n\0"), NAMES)
def test_a_flag_of_two_lines_is_refused(name, before, line_break, after):
    with pytest.raises(UsageError, match=f"^--{name}=.*must be one line"):
        configure(**{name: before + line_break + after}).check()


@given(st.lists(NAMES, max_size=6, unique=True), st.data())
def test_a_table_cut_anywhere_keeps_its_whole_rows(folder, paths, more):
    floats = st.floats(allow_nan=False, allow_infinity=False)
    fields = [(path, more.draw(floats), more.draw(floats), 1) for path in paths]
    (folder / "scores.csv").unlink(missing_ok=True)
    with growing_table.append_to(folder, "scores") as table:
        for each in fields:
            table.write(growing_table.row(*each))
    written = (folder / "scores.csv").read_bytes()
    end = more.draw(st.integers(0, len(written)) | st.just(len(written)))
    (folder / "scores.csv").write_bytes(written[:end])
    found = growing_table.rows(folder / "scores.csv", "scores")
    ends = np.cumsum([len(growing_table.row(*each).encode("utf-8", "surrogateescape"))
                      for each in fields], dtype=int)  # fmt: skip
    header = len(",".join(growing_table.COLUMNS["scores"])) + 1
    whole = int(np.sum(header + ends <= end))
    assert list(found) == paths[:whole]
    for text, (path, *numbers) in zip(found.values(), fields[:whole], strict=True):
        (read,) = csv.reader([text])
        assert read[0] == path
        assert [float(cell) for cell in read[1:]] == numbers


@given(st.lists(st.tuples(NAMES, NAMES), max_size=6), SEEDS)
def test_scores_read_back_every_name_and_bit(folder, names, seed):
    paths, kinds = [name for name, _ in names], [kind for _, kind in names]
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**64, len(names), np.uint64).view(np.float64)
    distances = np.where(np.isfinite(bits), bits, 1.5)
    extra = {"p_value": np.where(rng.random(len(names)) < 0.5, rng.random(len(names)), np.nan)}
    labels, splits = rng.integers(0, 2, len(names)), ["test"] * len(names)
    frame = scores.scores_frame(paths, labels, kinds, splits, distances, extra)
    files.write_csv(folder / "frame.csv", frame)
    found = scores.read_scores(folder / "frame.csv")
    assert (list(found["path"]), list(found["defect_kind"])) == (paths, kinds)
    assert found["distance"].to_numpy().tobytes() == distances.tobytes()
    np.testing.assert_array_equal(found["p_value"], extra["p_value"])


@given(st.binary(max_size=200) | NAMES)
def test_a_file_holds_what_was_written(folder, content):
    path = folder / "any"
    files.write_whole(path, content)
    found = path.read_bytes()
    wanted = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    assert found == wanted
    assert not [other.name for other in folder.iterdir() if other.name.endswith(".tmp")]


@given(st.integers(1, 40), st.integers(1, 40), st.data(), st.sampled_from(KINDS), SEEDS)
def test_crops_stay_in_their_images(height, width, more, kind, seed):
    p, m = more.draw(st.integers(1, min(height, width))), 3
    drawn = crops.draw((m, height, width, 1), p, 50, (seed,), kind)
    assert set(drawn[:, 0]) <= set(range(m))
    free = np.array([height, width]) - p
    if kind == "none":
        assert (drawn[:, 1:] >= 0).all()
        assert (drawn[:, 1:] <= free).all()
        return
    center = drawn[:, 1:3] + (p - 1) / 2
    angle = drawn[:, 3:4].astype(float)
    if kind == "texture":
        half = (p - 1) / 2 * (np.abs(np.cos(angle)) + np.abs(np.sin(angle)))  # of the turned box
        last = np.array([height, width]) - 1
        fits = 2 * half <= last
        inside = (center - half >= -1e-4) & (center + half <= last + 1e-4)
        centered = np.abs(center - last / 2) < 1e-4
        assert np.where(fits, inside, centered).all()
        return
    beyond = crops.MAX_SHIFT * np.array([height, width])
    assert (drawn[:, 1:3] >= -beyond - 1e-4).all()
    assert (drawn[:, 1:3] <= free + beyond + 1e-4).all()
    assert np.abs(angle).max() <= math.radians(crops.MAX_ANGLE) + 1e-6
    assert set(drawn[:, 4]) <= ({-1, 1} if kind == "object_mirror" else {1})


@given(
    st.integers(1, 40),
    st.data(),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(KINDS),
    st.integers(0, 2**31 - 1),
)
def test_an_epoch_is_an_order_of_all_crops(n, more, epoch, redraw, kind, seed):
    batch_size, images = more.draw(st.integers(1, n)), np.zeros((4, 9, 11, 1), np.float32)

    def crops_of(epoch, seed=seed):
        return list(epoch_crops(images, Schedule(9, batch_size, n, 5, seed, redraw, kind), epoch))

    batches = crops_of(epoch)
    assert [len(batch) for batch in batches] == [batch_size] * (n // batch_size)
    seen = collections.Counter(map(tuple, np.concatenate(batches).tolist()))
    # all in one batch is the whole epoch, whatever its order
    whole = Schedule(9, n, n, 5, seed, redraw, kind)
    (drawn,) = epoch_crops(images, whole, epoch)
    drawn = collections.Counter(map(tuple, drawn.tolist()))
    assert seen <= drawn
    assert seen.total() == n - n % batch_size
    if not redraw:  # the crops of every epoch are those of the first
        (first,) = epoch_crops(images, whole, 1)
        assert collections.Counter(map(tuple, first.tolist())) == drawn
    np.testing.assert_array_equal(crops_of(epoch), batches)


@st.composite
def splits(draw, smallest=2):
    """A category as a reader leaves it: every image another one, names of any kind."""
    rng = np.random.default_rng(draw(SEEDS))
    names = st.text(min_size=1, max_size=5)
    train = sorted(draw(st.lists(names, min_size=smallest, max_size=8, unique=True)))
    test = sorted(draw(st.lists(names, min_size=1, max_size=5, unique=True)))
    kinds = tuple(draw(st.sampled_from([GOOD, "dent", "crack"])) for _ in test)
    shape = (3, 2, draw(st.sampled_from([1, 3])))
    pixels = rng.random((len(train) + len(test), *shape), np.float32)
    return Split(
        *("folder", "lid", pixels[: len(train)], tuple(train)),
        *(pixels[:0], (), pixels[len(train) :], tuple(test), kinds),
        masks=(rng.random((len(test), *shape[:2])) < 0.5)
        & (np.array(kinds) != GOOD)[:, None, None],
        has_mask=rng.random(len(test)) < 0.5,
        test_sizes=((3, 2),) * len(test),
    )


@given(splits(), st.floats(0, 1, exclude_max=True), SEEDS)
def test_what_is_held_out_is_not_trained_on_and_nothing_is_lost(split, fraction, seed):
    n = len(split.train)
    count = max(1, round(fraction * n)) if fraction else 0
    if count == n:
        with pytest.raises(DataError, match="none is left to train on"):
            data.hold_out(split, fraction, seed)
        return
    found = data.hold_out(split, fraction, seed)
    parts = [
        dict(zip(paths, map(np.ndarray.tobytes, pixels), strict=True))
        for paths, pixels in (
            (found.train_paths, found.train),
            (found.validation_paths, found.validation),
        )
    ]
    assert len(parts[1]) == count
    assert not set(parts[0]) & set(parts[1])
    whole = zip(split.train_paths, map(np.ndarray.tobytes, split.train), strict=True)
    assert parts[0] | parts[1] == dict(whole)
    assert all(list(part) == sorted(part) for part in parts)
    again = data.hold_out(split, fraction, seed)
    assert (again.train_paths, again.validation_paths) == tuple(map(tuple, parts))


@given(splits(), st.lists(st.integers(0, 3), min_size=8, max_size=8), SEEDS)
def test_validation_shares_no_image_with_training_however_many_are_copies(split, which, seed):
    copied = split.train[np.array(which)[: len(split.train)] % len(split.train)]
    split = dataclasses.replace(split, train=copied)
    different = set(map(np.ndarray.tobytes, copied))
    if len(different) == 1:
        with pytest.raises(DataError, match="held out"):
            data.hold_out(split, 0.3, seed)
        return
    found = data.hold_out(split, 0.3, seed)
    train, validation = (
        set(map(np.ndarray.tobytes, part)) for part in (found.train, found.validation)
    )
    assert validation
    assert not train & validation
    assert train | validation == different
    assert sorted((*found.train_paths, *found.validation_paths)) == list(split.train_paths)


@given(splits(), st.floats(0, 0.5), SEEDS, st.data())
def test_a_fingerprint_changes_with_every_pixel_and_name_and_not_with_order(
    split, fraction, seed, more
):
    found = data.fingerprint(split)
    if len(split.train) > round(fraction * len(split.train)) + 1:
        assert data.fingerprint(data.hold_out(split, fraction, seed)) == found
    order = np.random.default_rng(seed).permutation(len(split.train))
    paths = tuple(split.train_paths[i] for i in order)
    shuffled = dataclasses.replace(split, train=split.train[order], train_paths=paths)
    assert data.fingerprint(shuffled) == found
    field = more.draw(st.sampled_from(["train", "test", "masks", "has_mask"]))
    array = getattr(split, field).copy()
    at = more.draw(st.integers(0, array.size - 1))
    array.flat[at] = ~array.flat[at] if array.dtype == bool else np.nextafter(array.flat[at], 2)
    assert data.fingerprint(dataclasses.replace(split, **{field: array})) != found
    names = more.draw(st.sampled_from(["train_paths", "test_paths", "kinds"]))
    changed = list(getattr(split, names))
    changed[more.draw(st.integers(0, len(changed) - 1))] += "0"
    assert data.fingerprint(dataclasses.replace(split, **{names: tuple(changed)})) != found
