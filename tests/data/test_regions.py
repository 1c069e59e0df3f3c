"""Regions of MVTec LOCO AD: which pixels they are, and how many of them are enough."""

import dataclasses
import json

import layout_trees as trees
import numpy as np
import pytest
from PIL import Image

from cae_jax import data
from cae_jax.data import joint
from cae_jax.data.frame import Frame
from cae_jax.runs import job
from cae_jax.runs.config import configure
from cae_jax.types import DataError

CONFIG = [
    {"pixel_value": 236, "saturation_threshold": 40, "relative_saturation": False},
    {"pixel_value": 241, "saturation_threshold": 0.25, "relative_saturation": True},
    {"pixel_value": 255, "saturation_threshold": 900},  # more than there is: all of it
]
LOGICAL = "test/logical_anomalies/0.png"


def write(root):
    """A category with three files of masks of one image, of 16 x 16, two of one level."""
    trees.write(root, "train/good/0.png", "train/good/1.png", "test/good/0.png", LOGICAL)
    trees.write(root, "test/structural_anomalies/7.png")
    masks = root / "ground_truth"
    trees.mask(masks / "logical_anomalies/0/000.png", 0, 1, 8, 9, value=236)  # apart: one region
    trees.mask(masks / "logical_anomalies/0/001.png", 8, 9, 12, 13, value=241)  # lies over it
    trees.mask(masks / "logical_anomalies/0/002.png", 4, 5, value=236)
    trees.mask(masks / "structural_anomalies/7/000.png", 6, 7, value=255)
    (root / "defects_config.json").write_text(json.dumps(CONFIG))
    return root


def shown(split, side):
    """{path: [(rows, saturation) of each region]}, all rows being whole."""
    found = {}
    for path, regions in split.regions.items():
        found[path] = []
        for region in regions:
            rows, columns = np.divmod(region.pixels, side)
            assert np.array_equal(columns.reshape(-1, side)[0], np.arange(side))
            found[path].append((sorted(set(rows.tolist())), region.saturation))
    return found


def read(root, side, **how):
    return data.read("folder", str(root), root.name, Frame(side, **how), 0)


@pytest.mark.parametrize("side", [16, 8])  # 8: a quarter of the pixels, and so of what is enough
def test_each_file_is_a_region_and_its_saturation_goes_with_the_size(tmp_path, side):
    split = read(write(tmp_path / "box"), side)
    assert split.layout == "mvtec_loco"
    rows = {16: lambda *at: list(at), 8: lambda *at: sorted({row // 2 for row in at})}[side]
    scale = (side / 16) ** 2
    assert shown(split, side) == {
        LOGICAL: [
            (rows(0, 1, 8, 9), pytest.approx(40 * scale)),
            (rows(8, 9, 12, 13), pytest.approx(16 * scale)),  # a quarter of 64
            (rows(4, 5), pytest.approx(32 * scale)),  # 40 are more than it has
        ],
        "test/structural_anomalies/7.png": [(rows(6, 7), pytest.approx(32 * scale))],
    }
    assert not split.notes
    assert not split.warnings
    assert "defects_config.json" not in trees.causes(split)


def test_what_is_not_looked_at_is_no_part_of_a_region(tmp_path):
    root = write(tmp_path / "box")
    split = read(root, (4, 16), resize="none", roi=(0, 6, 16, 4))  # rows 6 to 9
    sat = {path: [(r.pixels.size, r.saturation) for r in of] for path, of in split.regions.items()}
    assert sat[LOGICAL] == [(32, pytest.approx(32 * 40 / 64)), (32, pytest.approx(8))]


def test_several_levels_in_a_file_and_one_that_is_not_known(tmp_path):
    root = write(tmp_path / "box")
    pixels = np.zeros((16, 16), np.uint8)
    pixels[2:4], pixels[10:14] = 241, 7
    Image.fromarray(pixels).save(root / "ground_truth/structural_anomalies/7/000.png")
    split = read(root, 16)
    found = shown(split, 16)["test/structural_anomalies/7.png"]
    assert found == [([10, 11, 12, 13], 64), ([2, 3], 8)]
    assert "does not know, ground_truth/structural_anomalies/7/000.png 7" in split.warnings[0]


def test_regions_of_several_categories(tmp_path):
    splits = [read(write(tmp_path / name), 16) for name in ("a", "b")]
    regions = joint.join(splits).regions
    assert sorted(regions) == sorted(f"{s.category}/{path}" for s in splits for path in s.regions)
    assert np.array_equal(regions[f"b/{LOGICAL}"][1].pixels, splits[1].regions[LOGICAL][1].pixels)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "cannot be read"),
        ('{"pixel_value": 236}', "cannot be read"),
        ('[{"pixel_value": 236}]', "a record has no saturation_threshold"),
        ('[{"pixel_value": 236, "saturation_threshold": 0}]', "a saturation_threshold of 0"),
        ('[{"pixel_value": 236, "saturation_threshold": "much"}]', "much"),
    ],
)
def test_a_config_that_cannot_be_used_is_said(tmp_path, text, said):
    root = write(tmp_path / "box")
    (root / "defects_config.json").write_text(text)
    split = read(root, 16)
    assert split.regions == {}
    assert any(said in note and "sPRO is not computed" in note for note in split.notes)


def test_other_thresholds_make_other_images_but_not_of_an_older_run(tmp_path):
    root = write(tmp_path / "in" / "box")
    config = configure(
        **{"method": "variation_model", "dataset": "folder", "data_dir": str(root.parent)},
        **{"image_size": 16, "folds": 2, "workdir": str(tmp_path / "out")},
    )
    job.run(config)
    split = read(root, 16)
    (cell,) = job.plan([config])
    assert cell.is_of(split)
    assert cell.fingerprint == data.fingerprint(split)
    without = data.known_as(split)[1]
    assert without == data.fingerprint(dataclasses.replace(split, regions={})) != cell.fingerprint
    job.run(config)  # finished before
    records = [CONFIG[0] | {"saturation_threshold": 39}, *CONFIG[1:]]
    (root / "defects_config.json").write_text(json.dumps(records))
    with pytest.raises(
        DataError, match=r"now: 1 image with other saturation thresholds .test/logi"
    ):
        job.run(config)
    assert not cell.is_of(read(root, 16))
    versions = cell.folder / "versions.json"
    older = json.loads(versions.read_text()) | {"data_fingerprint": without}
    del older["data_fingerprint_of"]
    versions.write_text(json.dumps(older))
    table = cell.folder / "fingerprints.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if ",saturations," not in line))
    job.run(config)  # which never knew of them
    assert cell.is_of(read(root, 16))
    (root / "train/good/1.png").unlink()
    with pytest.raises(DataError, match=r"now: 1 training image less .train/good/1.png.;"):
        job.run(config)
