"""The first screen: what it says of runs of every sort, its numbers counted here by hand."""

import base64
import io
import math

import numpy as np
import pytest
from html_pages import Document
from PIL import Image
from scipy.stats import binomtest

from cae_jax import files
from cae_jax.evaluation import summary
from cae_jax.evaluation.scores import scores_frame
from cae_jax.reports.html import gallery, glance, run_page
from cae_jax.reports.run_files import Examples, read_run
from cae_jax.types import GOOD

UNSEEN = np.arange(1.0, 32)  # 31 good distances: the 90 % quantile is the 28th, 28.0
BENT, CRACKED = [20, 27, 40, 50], [10, 60]


def make_run(tmp_path, unseen=UNSEEN, split="validation", good=(2, 3, 30), bent=BENT,
             cracked=CRACKED, rate=0.0):  # fmt: skip
    """A run as its files tell it, with a picture of every test image, whose value is its row."""
    kinds = [GOOD] * len(good) + ["bent"] * len(bent) + ["cracked"] * len(cracked)
    n, m = len(unseen), len(kinds)
    paths = [f"{split if i < n else 'test'}/{i}.png" for i in range(n + m)]
    frame = scores_frame(
        paths,
        [0] * n + [int(kind != GOOD) for kind in kinds],
        [GOOD] * n + kinds,
        [split] * n + ["test"] * m,
        [*unseen, *good, *bent, *cracked],
    )
    files.write_csv(tmp_path / "scores.csv", frame)
    files.write_json(tmp_path / "metrics.json", summary.summarize(frame, rate=rate))
    shape = (m, 8, 8)
    image = np.tile(np.arange(n, n + m, dtype=np.uint8)[:, None, None, None], (1, 8, 8, 1))
    maps, none = np.zeros(shape, np.float32), np.zeros(shape, bool)
    examples = Examples(np.arange(n, n + m), image, None, maps, none, none[:, 0, 0], none, 1.0, 0.5)
    return read_run(tmp_path)._replace(examples=examples)


def between(n, k):
    """The 2.5 and 97.5 % points, per thousand, of the share above the k-th smallest of n uniform
    draws: it is at most x exactly where at least n + 1 - k of them lie above 1 - x."""
    x = np.linspace(0, 1, 100001)
    chance = sum(math.comb(n, j) * x**j * (1 - x) ** (n - j) for j in range(n + 1 - k, n + 1))
    return [round(1000 * x[np.searchsorted(chance, wanted)]) for wanted in (0.025, 0.975)]


def test_held_out(tmp_path):
    run = make_run(tmp_path)
    alarms, misses = (found := glance.glance(run))["answers"]
    assert (
        "above 28; 28 of 31 good images kept out of training lie at or below it." in found["rule"]
    )
    low, high = between(31, 28)
    assert alarms.shown == "about 125"  # 4 of 32
    assert alarms.notes == [
        f"Expected; with 95 % confidence {low} to {high}.",
        "Of 3 good test images 1 is called defective.",
    ]
    assert misses.shown == "3 of 6"  # 20, 27 and 10
    assert "Kinds missed most: bent 2 of 4, cracked 1 of 2." in misses.notes
    shown = [(one.title, one.row, one.kind) for one in found["shown"]]
    assert shown == [
        ("A good part", 31 + 1, GOOD),  # the upper of 2 and 3; 30 is a false alarm
        ("A defect that is found", 31 + 6, "bent"),  # the middle one of 40, 50, 60
        ("A defect that is missed", 31 + 7, "cracked"),  # the farthest from being found
    ]
    assert found["shown"][2].said == "distance 10, not above 28: called good"


def test_out_of_fold_promises_nothing(tmp_path):
    found = glance.glance(make_run(tmp_path, split="out-of-fold"))
    assert "each measured by a model that had not learned from it" in found["rule"]
    assert "Nothing guarantees it" in found["answers"][0].notes[0]


def test_a_rate_that_was_asked_for(tmp_path):
    alarms, _ = glance.glance(make_run(tmp_path, rate=0.01))["answers"]
    assert alarms.shown == "about 31"  # the largest of 31: 1 of 32
    assert "no finite threshold can promise 1 %, which needs 99" in alarms.notes[1]


def test_a_threshold_that_leaks_expects_nothing(tmp_path):
    found = glance.glance(make_run(tmp_path, unseen=[]))
    alarms, misses = found["answers"]
    assert "above 30; all 3 good test images lie at or below it" in found["rule"]
    assert alarms.shown == "unknown"
    assert "picked on the test images" in " ".join(alarms.notes)
    assert "picked on the test images" in " ".join(misses.notes)


def test_unseen_images_tell_of_a_threshold_picked_on_others(tmp_path):
    run = make_run(tmp_path)
    points = [
        p | {"asked": True} for p in run.metrics["operating_points"] if p["rule"] == "f1_best"
    ]
    found = glance.glance(run._replace(metrics=run.metrics | {"operating_points": points}))
    limit = points[0]["threshold"]
    assert f"above {limit:.4g}, by the rule: best F1 (oracle)." in found["rule"]
    k = sum(distance > limit for distance in UNSEEN)
    low, high = (round(1000 * end) for end in binomtest(k, 31).proportion_ci(method="exact"))
    alarms = found["answers"][0]
    assert alarms.shown == f"about {1000 * k / 31:.0f}"
    assert alarms.notes[1] == f"Of 31 other good images {k} are above it: {low} to {high} (95 %)."


def test_without_a_threshold_nothing_is_called_anything(tmp_path):
    found = glance.glance(make_run(tmp_path, unseen=[], good=[]))
    assert found["rule"].startswith("No part can be called good or defective")
    assert found["answers"] == []
    assert [one.said for one in found["shown"]] == ["distance 40"]


@pytest.mark.parametrize(("good", "third"), [
    ([2, 3, 4], "The good part nearest to a false alarm"),
    ([2, 3, 29], "A false alarm"),
])  # fmt: skip
def test_without_a_defective_image_what_is_found_is_unknown(tmp_path, good, third):
    found = glance.glance(make_run(tmp_path, good=good, bent=[], cracked=[]))
    assert found["answers"][1].shown == "unknown"
    assert [one.title for one in found["shown"]] == ["A good part", third]


def test_no_good_image_passes(tmp_path):
    found = glance.glance(make_run(tmp_path, good=[97, 98, 99]))
    first = found["shown"][0]
    assert (first.title, first.row) == ("A good part that is called defective", 31 + 1)
    assert found["answers"][0].shown == "over 125"


def test_without_any_test_image(tmp_path):
    run = make_run(tmp_path, good=[], bent=[], cracked=[])
    found = glance.glance(run)
    assert [answer.shown for answer in found["answers"]] == ["about 125", "unknown"]
    assert len(found["answers"][0].notes) == 1
    assert (found["shown"], found["absent"]) == ([], "No picture: no test image.")
    assert "examples.npz" in glance.glance(run._replace(examples=None))["absent"]
    assert "about 125" in Document(run_page(run)).text


def test_no_defect_missed_is_not_no_defect_missed_ever(tmp_path):
    found = glance.glance(make_run(tmp_path, bent=[40], cracked=[50, 60]))
    assert found["answers"][1].shown == "0 of 3"
    high = 100 * (1 - 0.025 ** (1 / 3))  # with which share of misses three in a row are found
    assert f"up to {high:.1f} %" in found["answers"][1].notes[0]
    assert [one.title for one in found["shown"][1:]] == [
        "A defect that is found", "The defect nearest to being missed"]  # fmt: skip


@pytest.mark.parametrize(("n_high", "n_good", "said"), [
    (0, 10, "about"), (6, 10, "over"), (0, 100, "under"), (12, 100, "about"), (40, 100, "over"),
])  # fmt: skip
def test_test_images_may_refute_what_is_expected(tmp_path, n_high, n_good, said):
    good = [1] * (n_good - n_high) + [99] * n_high
    assert glance.glance(make_run(tmp_path, good=good))["answers"][0].shown == f"{said} 125"


def test_an_old_run_of_few_images_has_the_banner(tmp_path):
    text = Document(run_page(make_run(tmp_path, unseen=[1, 2, 3]))).text
    assert "Few images. only 3 unseen good images" in text
    assert "all 3 good images kept out of training" in text
    assert "that of the one good image" in glance.glance(make_run(tmp_path, unseen=[5]))["rule"]


def test_many_pictures_make_no_page_of_tens_of_megabytes(monkeypatch):
    """Blocks of 2 x 2 as one: means of images, the largest of maps, any of masks; as JPEG."""
    monkeypatch.setattr(gallery, "_PIXELS", 2 * 7 * 10 // 4)
    monkeypatch.setattr(gallery, "_LOSSLESS", 2 * 7 * 10 * 3 - 1)
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.integers(0, 256, (2, 4, 5, 3), np.uint8), 2, 1), 2, 2)[:, :7]
    residual = rng.random((2, 7, 10), np.float32)
    mask = np.zeros((2, 7, 10), bool)
    mask[:, 6, 9] = True
    examples = Examples(np.arange(2), image, None, residual, mask, mask.any((1, 2)), mask, 1.0, 0.5)
    shown = gallery.pictures(examples, 0, "x.png")
    sizes = {(one.width, one.height) for one in shown.values()}
    assert sizes == {(5, 4)}
    small = np.asarray(Image.open(io.BytesIO(decoded(shown["predicted"]))))
    assert small.astype(bool).nonzero() == ([3], [4])
    assert Image.open(io.BytesIO(decoded(shown["image"]))).format == "JPEG"
    means = gallery._means(image[0], 2)
    np.testing.assert_array_equal(means[:3], image[0, :6:2, ::2])
    largest = gallery._blocks(residual[0], 2).max((1, 3))
    assert largest[3, 4] == residual[0, 6, 8:].max()


def test_of_a_large_image_its_most_unusual_place_is_shown():
    rng = np.random.default_rng(0)
    image, residual = rng.integers(0, 256, (2, 300, 1100, 1), np.uint8), np.zeros((2, 300, 1100))
    residual[1, 290, 700] = 2
    mask = residual > 1
    examples = Examples(np.arange(2), image, image, residual.astype("f"), mask, mask.any((1, 2)),
                        mask, 1.0, 0.5)  # fmt: skip
    part, where = gallery.around(examples, 1)
    assert where == "shown around x 700, y 290"
    shown = gallery.pictures(part, 0, "x.png")
    seen = np.asarray(Image.open(io.BytesIO(decoded(shown["image"]))))
    np.testing.assert_array_equal(seen, image[1, 44:300, 572:828, 0])
    small = np.asarray(Image.open(io.BytesIO(decoded(shown["ground truth"]))))
    assert small.astype(bool).nonzero() == ([246], [128])
    assert gallery.around(part, 0) is None


def decoded(picture):
    return base64.b64decode(picture.uri.split(",")[1])
