"""The table of scores, written and read back to the last bit."""

import subprocess
import sys

import numpy as np
import pytest
from score_tables import score_table

from cae_jax import files
from cae_jax.evaluation import scores
from cae_jax.types import DataError


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_round_trip_exactly(tmp_path, dtype):
    rng = np.random.default_rng(0)
    distances = np.exp(rng.uniform(-30, 30, 300)).astype(dtype)
    names = ["a,b", 'q"uote', "new\nline", "é 螺丝", "NA", "", "raw\udcff", "none"]
    paths = [names[i % 8] for i in range(300)]
    kinds = [names[i % 7] for i in range(300)]
    frame = scores.scores_frame(paths, np.arange(300) % 2, kinds, ["test"] * 300, distances)
    files.write_csv(tmp_path / "scores.csv", frame)
    back = scores.read_scores(tmp_path / "scores.csv")
    assert list(back.columns) == ["path", "label", "defect_kind", "distance", "split"]
    assert back["distance"].to_numpy().astype(dtype).tobytes() == distances.tobytes()
    assert (back["distance"] == frame["distance"]).all()
    assert back["path"].tolist() == paths
    assert back["defect_kind"].tolist() == kinds
    first = (tmp_path / "scores.csv").read_bytes()
    files.write_csv(tmp_path / "scores.csv", back)
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
        scores.read_scores(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_scores_are_named(tmp_path):
    with pytest.raises(DataError, match=r"scores\.csv: cannot be read: No such file"):
        scores.read_scores(tmp_path / "scores.csv")


def test_scores_frame_refuses():
    with pytest.raises(ValueError, match=r"finite, got NaN or infinity for b\.png"):
        scores.scores_frame(["a.png", "b.png"], [0, 0], ["good"] * 2, ["test"] * 2, [1.0, np.nan])
    with pytest.raises(ValueError, match="got 'train'"):
        scores.scores_frame(["a.png"], [0], ["good"], ["train"], [1.0])
    with pytest.raises(ValueError, match="same length"):
        scores.scores_frame(["a.png"], [0], ["good"], ["test"], [1.0, 2.0])


def test_distances_of_against_a_loop():
    frame = score_table(4, 5, 3).sample(frac=1, random_state=1)
    found = {"good": [], "defective": [], "validation": []}
    for _, row in frame.iterrows():
        kind = "defective" if row["label"] else "good"
        found["validation" if row["split"] == "validation" else kind].append(row["distance"])
    assert [d.tolist() for d in scores.distances_of(frame)] == list(found.values())
    assert [len(d) for d in scores.distances_of(frame)] == [5, 3, 4]


def test_reports_stay_out():
    """Scores are read where nothing is drawn."""
    code = "import sys, cae_jax.evaluation.scores, cae_jax.evaluation.summary\n"
    code += "sys.exit(any(name.startswith('cae_jax.reports') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
