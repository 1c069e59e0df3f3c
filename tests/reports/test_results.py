import re

import numpy as np
import pandas as pd
from score_tables import score_table

from cae_jax import files
from cae_jax.evaluation import summary
from cae_jax.reports import results


def test_thesis_csvs_hold_the_test_images(tmp_path):
    frame = score_table()
    results.write_thesis_csvs(tmp_path, frame)
    good, bad = (pd.read_csv(tmp_path / name) for name in ("good.csv", "defective.csv"))
    assert list(good.columns) == list(bad.columns) == ["path", "distance"]
    assert good["path"].tolist() == frame["path"][10:30].tolist()
    assert bad["path"].tolist() == frame["path"][30:].tolist()
    np.testing.assert_allclose(bad["distance"], frame["distance"][30:], rtol=1e-15)


def make_row(**changes):
    row = {**summary.summarize(score_table()), "dataset": "synthetic", "category": "weave"}
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
    files.write_csv(tmp_path / "results.csv", frame)
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
    assert "good images alone" in lines[-3]
    few = " ".join(lines[-2:])  # of 10 unseen ones: 1 in 11 is the least, 19 allow 1 in 20
    assert few.startswith("10 good images are few to set a threshold by")
    assert "1 in 11 good images defective, or more; it takes 19 for 1 in 20." in few
    assert "synthetic data" not in results.format_table(
        results.results_table([make_row(dataset="folder")])
    )
