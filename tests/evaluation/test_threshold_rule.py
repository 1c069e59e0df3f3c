"""A threshold by the name of its rule, against a sorted list."""

import math

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from cae_jax.evaluation import summary, threshold_rule, verdict
from cae_jax.evaluation.scores import scores_frame
from cae_jax.reports import rules
from cae_jax.types import UsageError

SOURCE = "validation good"


def picked(text, good, defective, unseen):
    rule = threshold_rule.parse(text)
    arrays = (np.array(each, np.float64) for each in (good, defective, unseen))
    return threshold_rule.threshold(rule, *arrays, SOURCE)


@pytest.mark.parametrize(
    ("text", "k", "of", "percent", "rate"),
    [
        ("percent:90", math.ceil(0.9 * 39), "unseen", 90, None),
        ("percent:1", 1, "unseen", 1, None),
        ("max", 39, "unseen", 100, None),
        ("exclusive:90", math.floor(0.9 * 40), "unseen", 90, None),
        ("thesis:70", math.ceil(0.7 * 11), "good", 70, None),
        ("conformal:0.1", math.ceil(40 * 0.9), "unseen", 90, None),
        ("conformal:0.025", math.ceil(40 * 0.975), "unseen", None, 0.025),
        ("false_alarms:0.05", math.ceil(40 * 0.95), "unseen", None, 0.05),
        ("false_alarms:0.001", 39, "unseen", None, 0.001),
    ],
)
def test_the_kth_smallest(rng, text, k, of, percent, rate):
    images = {"unseen": rng.random(39), "good": rng.random(11)}
    found = picked(text, images["good"], rng.random(5), images["unseen"])
    assert found.value == sorted(images[of])[k - 1]
    assert (found.percent, found.rate, found.n) == (percent, rate, len(images[of]))
    assert found.leaks == (of == "good")
    assert bool(rules.leak(found)) == found.leaks


def test_f1_best_against_scikit_learn(rng):
    good, defective = rng.random(20), rng.random(15) + 0.4
    found = picked("f1_best", good, defective, [])
    labels = np.repeat([0, 1], [20, 15])
    distances = np.concatenate([good, defective])
    precision, recall, _ = precision_recall_curve(labels, distances)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    called = np.concatenate([good, defective]) > found.value
    ours = 2 * (called & (labels == 1)).sum() / (called.sum() + 15)
    assert ours == pytest.approx(f1.max())
    assert "best F1 (oracle)) leaks" in rules.leak(found)


@pytest.mark.parametrize(
    ("text", "good", "defective", "unseen", "words"),
    [
        ("conformal:0.05", [1], [2], [1] * 18, "needs 19 unseen good images, has 18"),
        ("false_alarms:0.1", [1], [2], [], "no good image but those learned from"),
        ("f1_best", [1], [], [1], "needs good and defective test images"),
        ("percent:90", [], [1], [], "no good image to pick it on"),
    ],
)
def test_a_rule_without_its_images(text, good, defective, unseen, words):
    with pytest.raises(UsageError, match=words):
        picked(text, good, defective, unseen)
    assert picked("percent:90", [1, 2], [], []).leaks  # of the good test images


@pytest.mark.parametrize(
    "text",
    ["", "percent", "percent:", "percent:1.5", "max:1", "f1_best:2", "conformal:x", "min_area"],
)
def test_no_rule(text):
    with pytest.raises(UsageError, match="--threshold"):
        threshold_rule.parse(text)


def test_the_one_asked_for_counts_in_the_report(rng):
    unseen, good, bad = rng.random(30), rng.random(9), rng.random(4) + 0.5
    values = np.concatenate([unseen, good, bad])
    splits = ["validation"] * 30 + ["test"] * 13
    kinds = ["good"] * 39 + ["bent"] * 4
    frame = scores_frame([f"{i:02}" for i in range(43)], [0] * 39 + [1] * 4, kinds, splits, values)
    asked = picked("percent:50", good, bad, unseen)
    found = summary.summarize(frame, rate=0.1, asked=asked)
    point = verdict.counting(found["operating_points"])
    assert point["threshold"] == sorted(unseen)[14]
    assert point["defect_accuracy"] == np.mean(bad > point["threshold"])
    without = summary.summarize(frame, rate=0.1)
    assert verdict.counting(without["operating_points"])["rule"] == "false_alarms"
    assert {k: v for k, v in found.items() if k != "operating_points"}.keys() == without.keys() - {
        "operating_points"
    }
    assert rules.marks(found)[0].name == "quantile, 50 % of validation good"
