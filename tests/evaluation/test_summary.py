"""The content of metrics.json against loops over the table of scores, and scikit-learn."""

import json
import math

import numpy as np
import pytest
from score_tables import score_table
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from cae_jax import files
from cae_jax.evaluation import summary


def test_summary_against_loops(tmp_path):
    frame = score_table()
    shuffled = frame.sample(frac=1, random_state=3)  # the order of rows says nothing
    result = summary.summarize(shuffled)
    assert result == summary.summarize(frame)
    distance = frame["distance"].tolist()
    validation, good, bad = distance[:10], distance[10:30], distance[30:]
    assert result["image_auroc"] == pytest.approx(roc_auc_score([0] * 20 + [1] * 15, good + bad))
    assert (result["n_good"], result["n_defective"], result["n_validation"]) == (20, 15, 10)
    for percent in (70, 80, 90, 100):
        for source, infix in ((good, ""), (validation, "val_")):
            value = sorted(source)[len(source) * percent // 100 - 1]  # 20 and 10 divide evenly
            told_good = sum(d <= value for d in good) / 20
            told_bad = sum(d > value for d in bad) / 15
            assert result[f"good_accuracy_{infix}{percent}"] == told_good
            assert result[f"defect_accuracy_{infix}{percent}"] == told_bad
            assert result[f"mean_accuracy_{infix}{percent}"] == (told_good + told_bad) / 2
    points = result["operating_points"]
    assert [(p["rule"], p["source"], p["leaks"], p["percent"]) for p in points[3:9:5]] == [
        ("ceil", "test good", True, 70),
        ("ceil", "validation good", False, 100),
    ]
    assert points[8]["threshold"] == max(validation)
    for percent in (70, 80, 90, 100):
        worth = [result[f"mean_accuracy_{infix}{percent}"] for infix in ("", "val_")]
        assert result["leak_points"][percent] == pytest.approx(100 * (worth[0] - worth[1]))
    assert any(result["leak_points"].values())
    files.write_json(tmp_path / "metrics.json", result)
    back = json.loads((tmp_path / "metrics.json").read_text())
    assert back["operating_points"][8] == json.loads(json.dumps(points[8]))
    assert back["image_auroc"] == result["image_auroc"]
    assert back["leak_points"] == {str(k): v for k, v in result["leak_points"].items()}
    assert back["good_accuracy_min_area"] is None  # no maps, no such threshold


def test_images_out_of_fold_take_the_place_of_those_held_out():
    frame = score_table()
    unfolded = frame.assign(split=frame["split"].replace("validation", "out-of-fold"))
    one, other = (summary.summarize(each, rate=0.2) for each in (frame, unfolded))
    assert (one["n_validation"], one["n_out_of_fold"]) == (10, 0)
    assert (other["n_validation"], other["n_out_of_fold"]) == (0, 10)
    names = {"validation good": "out-of-fold good"}
    renamed = [p | {"source": names.get(p["source"], p["source"])} for p in one["operating_points"]]
    assert other["operating_points"] == renamed
    assert [p["rate"] for p in renamed if p["rule"] == "false_alarms"] == [0.2]
    assert {name: other[name] for name in summary.ACCURACIES if "min_area" not in name} == {
        name: one[name] for name in summary.ACCURACIES if "min_area" not in name
    }


def test_one_class_alone_has_no_metrics(tmp_path):
    for frame in (score_table(0, 5, 0), score_table(4, 0, 3), score_table(0, 0, 0)):
        files.write_json(tmp_path / "m.json", summary.summarize(frame))
        back = json.loads((tmp_path / "m.json").read_text())
        assert back["image_auroc"] is None
        assert back["mean_accuracy_70"] is None


def test_image_metrics_are_scikit_learns(rng):
    labels, distances = rng.integers(0, 2, 60), rng.integers(0, 9, 60).astype(float)
    found = summary.image_metrics(labels, distances)
    assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, distances))
    assert found["image_ap"] == pytest.approx(average_precision_score(labels, distances))
    precision, recall, _ = precision_recall_curve(labels, distances)
    both = precision + recall > 0
    f1 = 2 * precision[both] * recall[both] / (precision + recall)[both]
    assert found["image_f1_max"] == pytest.approx(f1.max())
    for alone in (summary.image_metrics([1, 1], [1.0, 2.0]), summary.image_metrics([], [])):
        assert all(math.isnan(value) for value in alone.values())


def test_every_accuracy_has_its_name():
    found = summary.summarize(score_table())
    assert set(summary.ACCURACIES) <= set(found)
    assert len(set(summary.ACCURACIES)) == len(summary.ACCURACIES) == 3 * 13
    known = {name for name in summary.ACCURACIES if not np.isnan(found[name])}
    # there are no maps here; an infinite threshold has its accuracies too
    without = ("min_area", "false_alarms")
    assert known == {name for name in summary.ACCURACIES if not name.endswith(without)}
    asked = summary.summarize(score_table(), rate=0.2)
    named = {name for name in summary.ACCURACIES if not np.isnan(asked[name])}
    assert named - known == {f"{of}_accuracy_false_alarms" for of in ("good", "defect", "mean")}
    assert (found["good_accuracy_conformal_95"], found["defect_accuracy_conformal_95"]) == (1, 0)
