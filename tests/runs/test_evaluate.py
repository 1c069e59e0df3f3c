"""A run judged by its maps: other losses and distances, whole images, masks and maps on disk."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage
from skimage.metrics import structural_similarity
from sklearn.metrics import average_precision_score, roc_auc_score

import cae_jax
from cae_jax.data import synthetic
from cae_jax.runs import build, evaluate, job
from cae_jax.runs import cell as cells
from cae_jax.runs.config import configure
from cae_jax.training import loop
from cae_jax.types import UsageError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run on whole images of 40 pixels, shifted and turned, trained on SSIM, its maps saved."""
    root = tmp_path_factory.mktemp("evaluation")
    counts = {"n_train": 12, "n_good": 5, "n_defective_per_kind": 2}
    synthetic.write(root / "in", ["tablet"], 48, 1, 0, **counts)
    sizes = {"image_size": 40, "num_patches": 48, "batch_size": 16, "epochs": 2}
    how = {"loss": "ssim", "distance": "ssim", "whole_image": True, "augment": "object"}
    config = configure(
        dataset="folder",
        data_dir=str(root / "in"),
        category="tablet",
        model="small_net:Tiny",
        workdir=str(root / "out"),
        validation_fraction=0.3,
        minimum_area=12,
        save_maps=True,
        **sizes,
        **how,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr(evaluate, "_plot", lambda *_: None)
        job.run(config)
        yield root


def cell_of(world):
    return world / "out" / "tablet" / "small_net.Tiny-ssim" / "seed_0"


def scores_of(world):
    return pd.read_csv(cell_of(world) / "scores.csv")


def metrics_of(world):
    return json.loads((cell_of(world) / "metrics.json").read_text())


def test_a_whole_image_is_one_patch(world):
    config = cells.find(world / "out")[0].config
    assert (config.options.patch_size, config.options.stride) == (40, 40)
    assert config.options.augment == "object"
    history = pd.read_csv(cell_of(world) / "history.csv")
    assert history["loss"].iloc[1] < history["loss"].iloc[0]  # 1 - SSIM, so within its range
    assert history["loss"].between(0, 2).all()


def test_the_verdict_rests_on_the_distance_asked_for(world):
    frame = scores_of(world)
    assert list(frame["distance"]) == list(frame["ssim"])
    detector = cae_jax.load(world / "out")
    held_out = frame.loc[frame["split"] == "validation", "ssim"]
    images = build.read_split(cells.find(world / "out")[0].config).test[..., 0].astype(float)
    for image, (_, row) in zip(images, frame[frame["split"] == "test"].iterrows(), strict=True):
        verdict = detector.score(world / "in" / "tablet" / row["path"])
        made = verdict.reconstruction[..., 0].astype(float)
        whole = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        _, similarity = structural_similarity(image, made, data_range=1, full=True, **whole)
        np.testing.assert_allclose(verdict.residual, 1 - similarity, atol=2e-5)
        assert row["ssim"] == pytest.approx(verdict.residual.sum(), rel=1e-5)
        assert row["l2"] == pytest.approx(np.sum((255 * (image - made)) ** 2), rel=1e-4)
        assert row["l1"] == pytest.approx(np.sum(np.abs(255 * (image - made))), rel=1e-4)
        p = (1 + (held_out >= row["ssim"]).sum()) / (len(held_out) + 1)
        assert row["p_value"] == pytest.approx(p)
        assert verdict.p_value == pytest.approx(p)


def test_maps_and_masks_are_where_mvtec_looks_for_them(world):
    cell, frame = cell_of(world), scores_of(world)
    test = frame[frame["split"] == "test"]
    stems = [path.removesuffix(".png") for path in test["path"]]
    for folder, suffix in (("anomaly_maps", ".tiff"), ("predicted_masks", ".png")):
        root = cell / folder / "tablet"
        written = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
        assert written == {stem + suffix for stem in stems}
    point = next(p for p in metrics_of(world)["operating_points"] if p["rule"] == "min_area")
    detector = cae_jax.load(world / "out")
    flagged = []
    for stem in stems:
        residual = np.asarray(Image.open(cell / "anomaly_maps" / "tablet" / f"{stem}.tiff"))
        assert residual.dtype == np.float32
        assert residual.shape == (48, 48)  # the image's own size, not the 40 that it is scored at
        mask = np.asarray(Image.open(cell / "predicted_masks" / "tablet" / f"{stem}.png"))
        assert mask.shape == (48, 48)
        verdict = detector.score(world / "in" / "tablet" / f"{stem}.png")
        as_image = Image.fromarray(verdict.mask.astype(np.uint8))
        np.testing.assert_array_equal(mask > 0, np.asarray(as_image.resize((48, 48), 0)) == 1)
        labels, _ = ndimage.label(verdict.mask, np.ones((3, 3)))
        flagged.append(max(np.bincount(labels.ravel())[1:], default=0) >= 12)
    flagged, label = np.array(flagged), test["label"].to_numpy()
    assert point["good_accuracy"] == pytest.approx(np.mean(~flagged[label == 0]))
    assert point["defect_accuracy"] == pytest.approx(np.mean(flagged[label == 1]))


def test_pixel_metrics_are_of_the_maps(world):
    detector = cae_jax.load(world / "out")
    split = build.read_split(cells.find(world / "out")[0].config)
    maps = [detector.score(world / "in" / "tablet" / path).residual for path in split.test_paths]
    found = metrics_of(world)
    truth, values = split.masks.ravel(), np.array(maps).ravel()
    assert 0 < truth.mean() < 0.5
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth, values), abs=1e-5)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(truth, values), abs=1e-5)
    assert found["distances"]["ssim"]["pixel_auroc"] == found["pixel_auroc"]
    assert set(found["distances"]) == {"l2", "l1", "ssim"}
    curve = json.loads((cell_of(world) / "curves.json").read_text())["pro"]
    low = np.array(curve["fpr"]) <= 0.3
    area = np.trapezoid(np.array(curve["pro"])[low], np.array(curve["fpr"])[low]) / 0.3
    assert area == pytest.approx(found["au_pro_30"], abs=0.02)  # the curve for drawing is thinned


def test_another_distance_needs_no_training(world, monkeypatch):
    before = scores_of(world)
    monkeypatch.setattr(loop, "train_members", None)
    table = job.evaluate_again(world / "out", changes={"distance": "l2", "image_score": "max"})
    after = scores_of(world)
    assert list(table["distance"]) == ["l2"]
    assert list(after["distance"]) == list(after["l2"])
    assert (after["l2"] < before["l2"]).all()  # a maximum, not a sum over pixels
    assert (after["ssim"] <= 2).all()
    test = after[after["split"] == "test"]
    assert table["image_auroc"].iloc[0] == roc_auc_score(test["label"], test["l2"])
    config = cells.find(world / "out")[0].config
    assert (config.distance, config.image_score) == ("l2", "max")
    back = job.evaluate_again(world / "out", changes={"distance": "ssim", "image_score": "sum"})
    assert list(back["distance"]) == ["ssim"]
    pd.testing.assert_frame_equal(scores_of(world), before)


def test_a_change_that_cannot_work_changes_nothing(world):
    files = {p: p.read_bytes() for p in cell_of(world).iterdir() if p.is_file()}
    with pytest.raises(UsageError, match="--distance 'l3'"):
        job.evaluate_again(world / "out", changes={"distance": "l3"})
    assert {p: p.read_bytes() for p in cell_of(world).iterdir() if p.is_file()} == files


def test_a_collapsed_generator_is_said(capsys):
    cell = cells.Cell(None, configure().resolved())
    found = dict.fromkeys(("light", "flag", "few"), "") | {
        "operating_points": [],
        "collapse": "all alike",
    }
    evaluate._warn(cell, found)
    assert f"warning: {cell.title}: all alike" in capsys.readouterr().err
    evaluate._warn(cell, found | {"collapse": ""})
    assert not capsys.readouterr().err
    evaluate._warn(cell, found | {"collapse": "", "few": "only 3"})
    assert capsys.readouterr().err == f"warning: {cell.title}: only 3\n"
