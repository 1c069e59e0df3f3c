import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cae_jax.reports import results
from cae_jax.types import DataError


def make_scores(n_validation=10, n_good=20, n_defective=15, dtype=np.float32):
    rng = np.random.default_rng(0)
    n = n_validation + n_good + n_defective
    labels = np.repeat([0, 1], [n_validation + n_good, n_defective])
    return results.scores_frame(
        [f"test/x/{i:03d}.png" for i in range(n)],
        labels,
        ["scratch" if label else "good" for label in labels],
        ["validation"] * n_validation + ["test"] * (n_good + n_defective),
        (rng.gamma(9, 1e6, n) * (1 + 0.4 * labels)).astype(dtype),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_round_trip_exactly(tmp_path, dtype):
    rng = np.random.default_rng(0)
    distances = np.exp(rng.uniform(-30, 30, 300)).astype(dtype)
    names = ["a,b", 'q"uote', "new\nline", "é 螺丝", "NA", "", "raw\udcff", "none"]
    paths = [names[i % 8] for i in range(300)]
    kinds = [names[i % 7] for i in range(300)]
    frame = results.scores_frame(paths, np.arange(300) % 2, kinds, ["test"] * 300, distances)
    results.write_csv(tmp_path / "scores.csv", frame)
    back = results.read_scores(tmp_path / "scores.csv")
    assert list(back.columns) == ["path", "label", "defect_kind", "distance", "split"]
    assert back["distance"].to_numpy().astype(dtype).tobytes() == distances.tobytes()
    assert (back["distance"] == frame["distance"]).all()
    assert back["path"].tolist() == paths
    assert back["defect_kind"].tolist() == kinds
    first = (tmp_path / "scores.csv").read_bytes()
    results.write_csv(tmp_path / "scores.csv", back)
    assert (tmp_path / "scores.csv").read_bytes() == first
    assert b"\r" not in first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a table of scores: No columns"),
        (b"path,label\na,0\n", "no column defect_kind, distance, split"),
        (b"path,label,defect_kind,distance,split\na,x,good,1.0,test\n", "not a table of scores"),
        (b"path,label,defect_kind,distance,split\na,0,good,1.0\n", "split must be one of"),
        (b"path,label,defect_kind,distance,split\na,0,good\n", "split must be|not a table"),
        (b"path,label,defect_kind,distance,split\na,0,good,,test\n", "not a table|finite"),
        (b"path,label,defect_kind,distance,split\na,0,good,nan,test\n", "finite"),
        (b"path,label,defect_kind,distance,split\na,2,good,1.0,test\n", r"0 or 1, got \[2\]"),
        (b"path,label,defect_kind,distance,split\na,0,good,1.0,train\n", "got 'train'"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "not a table of scores"),
    ],
)
def test_broken_scores_are_named(tmp_path, content, message):
    path = tmp_path / "scores.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        results.read_scores(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_scores_are_named(tmp_path):
    with pytest.raises(DataError, match=r"scores\.csv: cannot be read: No such file"):
        results.read_scores(tmp_path / "scores.csv")


def test_scores_frame_refuses():
    with pytest.raises(ValueError, match=r"finite, got NaN or infinity for b\.png"):
        results.scores_frame(["a.png", "b.png"], [0, 0], ["good"] * 2, ["test"] * 2, [1.0, np.nan])
    with pytest.raises(ValueError, match="got 'train'"):
        results.scores_frame(["a.png"], [0], ["good"], ["train"], [1.0])
    with pytest.raises(ValueError, match="same length"):
        results.scores_frame(["a.png"], [0], ["good"], ["test"], [1.0, 2.0])


def test_thesis_csvs_hold_the_test_images(tmp_path):
    frame = make_scores()
    results.write_thesis_csvs(tmp_path, frame)
    good, bad = (pd.read_csv(tmp_path / name) for name in ("good.csv", "defective.csv"))
    assert list(good.columns) == list(bad.columns) == ["path", "distance"]
    assert good["path"].tolist() == frame["path"][10:30].tolist()
    assert bad["path"].tolist() == frame["path"][30:].tolist()
    np.testing.assert_allclose(bad["distance"], frame["distance"][30:], rtol=1e-15)


def test_evaluate_against_loops(tmp_path):
    frame = make_scores()
    shuffled = frame.sample(frac=1, random_state=3)  # the order of rows says nothing
    result = results.evaluate(shuffled)
    assert result == results.evaluate(frame)
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
    results.write_json(tmp_path / "metrics.json", result)
    back = json.loads((tmp_path / "metrics.json").read_text())
    assert back["operating_points"][8] == json.loads(json.dumps(points[8]))
    assert back["image_auroc"] == result["image_auroc"]
    assert back["leak_points"] == {str(k): v for k, v in result["leak_points"].items()}
    assert back["good_accuracy_min_area"] is None  # no maps, no such threshold


def test_what_json_lacks(tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    for frame in (make_scores(0, 5, 0), make_scores(4, 0, 3), make_scores(0, 0, 0)):
        results.write_json(tmp_path / "m.json", results.evaluate(frame))
        back = json.loads((tmp_path / "m.json").read_text(), parse_constant=refuse)
        assert back["image_auroc"] is None
        assert back["mean_accuracy_70"] is None
    value = {"a": np.float32(0.5), "b": [np.int64(3), np.nan], "c": np.array([1.5, np.inf]), 4: "é"}
    value["d"] = -math.inf
    results.write_json(tmp_path / "m.json", value)
    assert json.loads((tmp_path / "m.json").read_text()) == {
        **{"a": 0.5, "b": [3, None], "c": [1.5, "inf"], "4": "é", "d": "-inf"}
    }


def make_row(**changes):
    row = {**results.evaluate(make_scores()), "dataset": "synthetic", "category": "weave"}
    row |= {"model": "bergmann", "seed": 3, "epochs": 8, "n_train": 90, "ms_per_image": 41.26}
    return {**row, "train_seconds": 12345.678, **changes}


def test_results_table(tmp_path):
    rows = [make_row(), make_row(category="ring", image_auroc=None)]
    frame = results.results_table(rows)
    for name in ("dataset", "model", "seed", "epochs", "n_train", "n_good", "train_seconds"):
        assert frame[name].tolist() == [row[name] for row in rows]
    assert "defect_accuracy_val_90" in frame
    assert "operating_points" not in frame
    assert frame["image_auroc"].isna().tolist() == [False, True]
    results.write_csv(tmp_path / "results.csv", frame)
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("dataset,category,model,seed,epochs,n_train,")
    assert lines[1].startswith("synthetic,weave,bergmann,3,8,90,10,20,15,0.")
    assert results.results_table([]).columns.equals(frame.columns)


def test_format_table():
    row = make_row()
    text = results.format_table(
        results.results_table([row, make_row(category="c" * 40, model="m" * 40, image_auroc=None)])
    )
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "synthetic data" in lines[0]
    assert re.search(r"thesis 70 %\s+leak-free 90 %", lines[2])
    # each group's name ends above its second column
    for name in ("thesis 70 %", "leak-free 90 %"):
        end = lines[2].index(name) + len(name)
        assert lines[3][:end].endswith("defect")
    names = ("image_auroc", "good_accuracy_70", "defect_accuracy_70")
    names += ("good_accuracy_val_90", "defect_accuracy_val_90")
    expected = [f"{row[name]:.{3 if name == 'image_auroc' else 2}f}" for name in names]
    assert lines[5].split() == ["weave", "bergmann", "3", *expected, "41.3", "12346"]
    assert lines[6].split()[3] == "-"
    assert "held out" in lines[-1]
    assert "synthetic data" not in results.format_table(
        results.results_table([make_row(dataset="folder")])
    )
