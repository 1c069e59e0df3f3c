"""The examples of the report: which images are shown, and that the file holds what it should."""

import io
import math

import numpy as np
import pytest

from cae_jax import files
from cae_jax.evaluation.scores import scores_frame
from cae_jax.reports import examples
from cae_jax.reports.html import gallery, read_run
from cae_jax.types import GOOD, Scores, Split

SIZE = (7, 5)
N_VALIDATION = 3
NAMES = ("it's.png", 'a "b".png', "größe.png", "傷 & <i>.png", "\udcff.png")


def make(rng, kinds, channels=1):
    """A split of random images, their scores with ties, and random segmentations."""
    n = len(kinds)
    good = np.array([kind == GOOD for kind in kinds])
    split = Split(
        dataset="folder",
        category="Deckel",
        train=rng.random((1, *SIZE, channels), np.float32),
        train_paths=("train/good/0.png",),
        validation=rng.random((N_VALIDATION, *SIZE, channels), np.float32),
        validation_paths=tuple(f"train/good/{i}" for i in range(N_VALIDATION)),
        test=rng.random((n, *SIZE, channels), np.float32),
        test_paths=tuple(
            f"test/{kind}/{i:03} {NAMES[i % len(NAMES)]}" for i, kind in enumerate(kinds)
        ),
        kinds=tuple(kinds),
        masks=(rng.random((n, *SIZE)) < 0.3) & ~good[:, None, None],
        has_mask=good | (rng.random(n) < 0.7),
        test_sizes=(SIZE,) * n,
    )
    scores = Scores(
        {"l2": rng.integers(40, size=n).astype(np.float32), "ssim": rng.random(n, np.float32)},
        {name: rng.normal(size=(n, *SIZE)).astype(np.float32) for name in ("l2", "ssim")},
        rng.normal(0.5, 0.5, (n, *SIZE, channels)).astype(np.float32),  # also outside 0..1
    )
    return split, scores, rng.random((n, *SIZE)) < 0.4


def rows_of(split):
    """Which rows of scores.csv the test images are: after those held out."""
    return N_VALIDATION + np.arange(len(split.test))


def unpack(packed):
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def frame_of(split, scores, distance):
    """The rows of scores.csv, validation images first."""
    n, labels = len(split.validation_paths), split.labels.tolist()
    return scores_frame(
        [*split.validation_paths, *split.test_paths],
        [*[0] * n, *labels],
        [*[GOOD] * n, *split.kinds],
        [*["validation"] * n, *["test"] * len(labels)],
        np.concatenate([np.full(n, 1e6), scores.distances[distance]]),  # not worst: not a test
        {"p_value": np.full(n + len(labels), np.nan)},
    )


def worst_of(frame):
    """The rows of the six worst on both sides, by sorting a list of the test images' rows."""
    test = [(row["distance"], i) for i, row in frame.iterrows() if row["split"] == "test"]
    defective = sorted(pair for pair in test if frame["label"][pair[1]] == 1)
    good = sorted(pair for pair in test if frame["label"][pair[1]] == 0)
    return {i for _, i in defective[:6] + good[-6:]}


def test_worst_of_both_sides(rng):
    labels = rng.integers(0, 2, 50)
    distances = rng.permutation(50).astype(float)
    misses, alarms = examples.worst(labels, distances)
    defective = sorted(d for d, label in zip(distances, labels, strict=True) if label)
    good = sorted(d for d, label in zip(distances, labels, strict=True) if not label)
    assert distances[misses].tolist() == defective[:6]
    assert distances[alarms].tolist() == good[::-1][:6]
    assert examples.worst(labels == 1, distances) == (misses, alarms)
    assert examples.worst([0, 1, 1, 0], [2.0, 5.0, 5.0, 2.0]) == ([1, 2], [3, 0])  # ties
    assert examples.worst([], []) == ([], [])


def test_choose_shows_every_kind_good_first_from_low_to_high(rng):
    for n in (4, 5, 9, 24, 200):
        kinds = rng.permutation([GOOD] * 9 + ["crack"] * 30 + ["ürö"] + ["'b\""] * 5).tolist()
        distances = rng.integers(20, size=len(kinds)).astype(float)
        chosen = examples.choose(kinds, distances, n)
        assert len(set(chosen)) == len(chosen) <= n
        shown = [kinds[i] for i in chosen]
        assert list(dict.fromkeys(shown)) == [GOOD, "'b\"", "crack", "ürö"]
        assert shown == sorted(shown, key=lambda kind: (kind != GOOD, kind))
        for kind in set(kinds):
            of_kind = [distances[i] for i in chosen if kinds[i] == kind]
            assert of_kind == sorted(of_kind)
    assert sorted(chosen) == list(range(len(kinds)))  # room for all of them


def test_choose_with_less_room_than_kinds_takes_one_of_each_of_the_first(rng):
    kinds = ["dent", "crack", GOOD, "dent", GOOD, "bent"]
    for n, want in ((3, [GOOD, "bent", "crack"]), (1, [GOOD]), (0, [])):
        assert [kinds[i] for i in examples.choose(kinds, rng.random(6), n)] == want


@pytest.mark.parametrize(("n", "of"), [(1, 9), (3, 9), (4, 100), (7, 50)])
def test_choose_is_even_over_the_distances(rng, n, of):
    distances = rng.permutation(of).astype(float)  # each is its own rank
    ranks = [distances[i] for i in examples.choose(["dent"] * of, distances, n)]
    assert len(ranks) == n
    assert max(np.diff([-1, *ranks, of])) <= math.ceil(of / n)


def test_scale_is_a_quantile_of_good_pixels_on_validation_images_if_there_are_any(rng):
    validation, test = rng.gamma(2, size=(3, 20, 23)), rng.gamma(5, size=(2, 20, 23))

    def quantile(maps):
        values = sorted(maps.ravel().tolist())
        below, part = divmod(0.999 * (len(values) - 1), 1)
        low, high = values[int(below)], values[int(below) + 1]
        return low + part * (high - low)

    assert examples.scale(validation, test) == pytest.approx(quantile(validation))
    assert examples.scale(validation[:0], test) == pytest.approx(quantile(test))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_packed_is_read_back(rng, tmp_path, channels):
    kinds = rng.permutation([GOOD] * 20 + ['sc"ratch'] * 15 + ["größe"] * 9).tolist()
    split, scores, predicted = make(rng, kinds, channels)
    packed = examples.pack(split, scores, "ssim", 1.7, predicted, 0.1, rows_of(split))
    files.write_whole(tmp_path / "examples.npz", packed)
    files.write_csv(tmp_path / "scores.csv", frame_of(split, scores, "ssim"))
    files.write_json(tmp_path / "metrics.json", {"distance": "ssim"})
    run = read_run(tmp_path)
    found = run.examples
    shown = found.row - N_VALIDATION
    assert len(set(shown)) == len(shown) > 12
    assert {*found.row} >= worst_of(run.frame)
    assert list(run.frame["path"][found.row]) == [split.test_paths[i] for i in shown]
    assert list(run.frame["defect_kind"][found.row]) == [kinds[i] for i in shown]
    for k, i in enumerate(shown):
        for name, exact in (("image", split.test), ("reconstruction", scores.reconstruction)):
            stored = getattr(found, name)[k]
            assert stored.dtype == np.uint8
            assert stored.shape == (*SIZE, channels)
            assert abs(stored - 255.0 * np.clip(exact[i], 0, 1)).max() < 0.5001
        np.testing.assert_array_equal(found.residual[k], scores.residuals["ssim"][i])
        np.testing.assert_array_equal(found.mask[k], split.masks[i])
        np.testing.assert_array_equal(found.predicted[k], predicted[i])
        assert found.has_mask[k] == split.has_mask[i]
    assert (found.scale, found.segmentation_threshold) == (pytest.approx(1.7), 0.1)
    page = gallery.gallery(run.frame, found, [""] * len(run.frame))
    assert page.count("<article") == len(shown)


def test_without_a_segmentation_nothing_is_predicted(rng):
    split, scores, _ = make(rng, [GOOD, "dent", "dent", GOOD, "dent"])
    arrays = unpack(examples.pack(split, scores, "l2", 3.0, None, math.nan, rows_of(split)))
    assert sorted(arrays["row"]) == [3, 4, 5, 6, 7]
    assert arrays["predicted"].shape == (5, *SIZE)
    assert arrays["predicted"].dtype == bool
    assert not arrays["predicted"].any()
    assert np.isnan(arrays["segmentation_threshold"])


def test_a_method_that_reconstructs_nothing(rng, tmp_path):
    split, scores, predicted = make(rng, [GOOD, "dent", GOOD, "dent"])
    packed = examples.pack(
        split, scores._replace(reconstruction=None), "l2", 3.0, predicted, 0.5, rows_of(split)
    )
    assert "reconstruction" not in unpack(packed)
    with_one = unpack(examples.pack(split, scores, "l2", 3.0, predicted, 0.5, rows_of(split)))
    assert {*with_one} == {*unpack(packed), "reconstruction"}
    files.write_whole(tmp_path / "examples.npz", packed)
    files.write_csv(tmp_path / "scores.csv", frame_of(split, scores, "l2"))
    files.write_json(tmp_path / "metrics.json", {})
    run = read_run(tmp_path)
    assert run.examples.reconstruction is None
    np.testing.assert_array_equal(run.examples.image, with_one["image"])
    page = gallery.gallery(run.frame, run.examples, [""] * len(run.frame))
    assert page.count("<article") == 4
    assert page.count("<figure>") == 4 * 4  # image, residual, ground truth, predicted
    assert "reconstruction" not in page


@pytest.mark.parametrize(
    "counts",
    [
        {GOOD: 60, "a": 60, "b": 60},
        {GOOD: 40, "crack": 18, "cut": 17, "hole": 18, "print": 17},  # hazelnut
        {GOOD: 3, "a": 60},
        {"a": 9, "b": 9},
        {GOOD: 20, **{f"kind {i:02}": 2 for i in range(30)}},
        {GOOD: 1},
    ],
    ids=lambda counts: f"{len(counts)} kinds",
)
def test_every_kind_and_the_worst_of_both_sides_are_packed(rng, counts):
    kinds = rng.permutation([kind for kind, n in counts.items() for _ in range(n)]).tolist()
    split, scores, predicted = make(rng, kinds)
    # the first kind of defect has all the worst misses, so the last one is among none of them
    scores.distances["l2"] += np.array([50.0 * list(counts).index(kind) for kind in kinds])
    rows = unpack(examples.pack(split, scores, "l2", 1.0, predicted, 0.5, rows_of(split)))["row"]
    assert len(set(rows)) == len(rows) <= max(24, len(counts) + 13)
    frame = frame_of(split, scores, "l2")
    assert set(frame["defect_kind"][rows]) == set(counts)
    assert set(frame["split"][rows]) == {"test"}
    distances = scores.distances["l2"]
    misses = sorted(distances[split.labels == 1])[:6]
    alarms = sorted(distances[split.labels == 0])[-6:]
    found = distances[rows - N_VALIDATION]
    labels = split.labels[rows - N_VALIDATION]
    assert sorted(found[labels == 1])[:6] == misses
    assert sorted(found[labels == 0])[-6:] == alarms
    assert {*rows} >= worst_of(frame)
    assert max(distances[split.labels == 1], default=None) in (*found[labels == 1], None)
