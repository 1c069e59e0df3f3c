"""The tables of the four papers against their print, and a fork's model without tables."""

import json
import pathlib
import subprocess
import sys

import pytest

from cae_jax import models
from cae_jax.models.layers import table
from cae_jax.models.layers.table import Row
from cae_jax.reports import architectures
from cae_jax.types import UsageError

# specification, section 1.5: parameters, multiply-accumulates a patch in millions
COUNTS = {
    "bergmann": (894_053, 132.1),
    "bergmann:decoder=mirror": (1_048_549, 121.3),
    "bergmann:whole_image=true": (773_285, 69.7),  # not in the specification: see test_models
    "oh_yun": (4_219_265, 2483.6),
    "chow": (13_827_343, 542.5),
    "gong": (1_535_361, 701.4),
    "gong:symmetric=true": (1_168_545, 355.5),
    "vanilla": (2 * 128 * 128 * 100 + 100 + 128 * 128, 3.3),
    "vae": (1_253_449, 121.5),  # the mirror and 8 * 8 * 32 more weights a latent number
}
# rows of the tables that the printed padding and stride do not give (specification, appendix)
CONTRADICTIONS = {
    "bergmann": "Conv8 Conv9 Deconv1 Deconv3 Deconv4 Deconv5 Deconv6 Deconv7",
    "oh_yun": "Conv1 Conv2 Conv3 Conv4 Conv5 Conv8 Deconv1 Deconv2 Deconv6 Deconv7 Deconv8 "
    "Deconv9 Deconv10",
    "chow": "Deconv1 Conv13 Conv14 Deconv2 Conv15 Conv16 Deconv3 Conv17 Conv18 Deconv4 Conv19 "
    "Conv20 Deconv5 Conv21 Conv22",
    "gong": "Conv1 Conv2 Conv3 Conv4 Deconv1 Deconv2",
}


@pytest.fixture(scope="module")
def found():
    return architectures.architectures(channels=1, patch_size=128)


def test_counts(found):
    got = {name: (one["parameters"], one["macs_per_patch"] / 1e6) for name, one in found.items()}
    assert got.keys() == COUNTS.keys()
    for name, (parameters, macs) in COUNTS.items():
        assert got[name][0] == parameters
        assert got[name][1] == pytest.approx(macs, abs=0.05)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_rows_print_the_table_back(found, name):
    rows = found[name]["rows"]
    assert sum(row["parameters"] for row in rows) == found[name]["parameters"]
    assert [row["name"] for row in rows if not row["agrees"]] == CONTRADICTIONS[name].split()
    assert all(row["note"] for row in rows if not row["agrees"])
    # of Table 10 the encoder alone: its decoder's sizes are another table's
    sized = [r for r in rows if r["printed"] and (name != "gong" or r["part"] == "encoder")]
    assert len(sized) == {"bergmann": 18, "oh_yun": 19, "chow": 37, "gong": 4}[name]
    for row in sized:
        assert tuple(row["computed"]) == tuple(row["printed"])


def test_literal_sizes():
    conv = Row("c", "conv", 8, 5, 2, printed_padding=1)
    assert table.literal_size(conv, (128, 128, 1)) == 63
    assert table.literal_size(conv._replace(op="deconv"), (3, 3, 1)) == 7
    assert table.literal_size(conv._replace(kernel=9), (1, 1, 4)) == 0
    assert table.literal_size(conv._replace(printed_padding=None), (8, 8, 1)) is None


FORK = """
import flax.linen as nn
from cae_jax.types import Reconstruction

class Tiny(nn.Module):
    channels: int = 1
    patch_size: int = 128

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(3, (3, 3), (2, 2))(x))
        x = nn.Dense(5)(x)
        return Reconstruction(nn.ConvTranspose(self.channels, (4, 4), (2, 2))(x), {})
"""


def test_a_forks_model_is_counted_from_its_program(tmp_path, monkeypatch):
    (tmp_path / "tiny_fork.py").write_text(FORK)
    monkeypatch.syspath_prepend(tmp_path)
    one = architectures.architecture("tiny_fork:Tiny", 1, 16, {})
    assert one["parameters"] == (9 * 3 + 3) + (3 * 5 + 5) + (16 * 5 + 1)
    assert one["macs_per_patch"] == 64 * 27 + 64 * 15 + 64 * 16 * 5
    assert {row["name"]: row["parameters"] for row in one["rows"]} == {
        "Conv_0": 30,
        "Dense_0": 20,
        "ConvTranspose_0": 81,
    }


FORK_OF_MANY = """
import flax.linen as nn
from cae_jax.types import Reconstruction

class Many(nn.Module):
    channels: int = 1
    patch_size: int = 128

    @nn.compact
    def __call__(self, x, train=False):
        gain = self.param("gain", nn.initializers.ones, ())
        memory = self.param("memory", nn.initializers.ones, (7, 5))
        x = nn.Sequential([nn.Conv(5, (3, 4)), nn.GroupNorm(1), nn.Dense(5)])(x)
        x = nn.LayerNorm()(x * gain + memory.sum(0))
        return Reconstruction(nn.Conv(self.channels, (1, 1), use_bias=False)(x), {})
"""


def test_a_forks_layers_are_named_by_their_parameters(tmp_path, monkeypatch):
    (tmp_path / "many_fork.py").write_text(FORK_OF_MANY)
    monkeypatch.syspath_prepend(tmp_path)
    one = architectures.architecture("many_fork:Many", 1, 16, {})
    keys = ("name", "op", "kernel", "features", "parameters")
    assert sorted((tuple(row[key] for key in keys) for row in one["rows"]), key=str) == sorted(
        [
            ("gain", "parameter", None, None, 1),
            ("memory", "parameter", None, 5, 35),
            ("Conv_0", "conv", (3, 4), 5, 3 * 4 * 5 + 5),
            ("GroupNorm_0", "norm", None, 5, 5 + 5),
            ("Dense_0", "dense", None, 5, 5 * 5 + 5),
            ("LayerNorm_0", "norm", None, 5, 5 + 5),
            ("Conv_1", "conv", (1, 1), 1, 5),
        ],
        key=str,
    )
    lines = architectures.format_rows(one).splitlines()
    assert len(lines) == 3 + len(one["rows"])
    assert "None" not in "\n".join(lines)
    assert [line.split() for line in lines if "3x4" in line] == [
        ["Conv_0", "conv", "3x4", "5", "65"]
    ]
    assert max(map(len, lines)) <= 100


def test_text(found):
    text = architectures.format_rows(found["chow"])
    assert "Conv22" in text
    assert text.count(" !\n") == 15
    assert "13,827,343" in architectures.format_comparison(found.values())


def test_command():
    command = [sys.executable, "-m", "experiments.describe", "--model=gong", "--format=json"]
    command += ["--model_options=items=100,symmetric=true"]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    assert printed["parameters"] == 1_168_545 - 1900 * 96
    assert printed.keys() >= {"parameters", "macs_per_patch", "rows"}


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("patch_size", [32, 64, 128])
def test_color_and_other_patch_sizes(name, patch_size):
    """`build` tries the module on abstract patches and refuses another shape than theirs."""
    one = architectures.architecture(name, 3, patch_size, {})
    assert tuple(one["rows"][-1]["computed"]) == (patch_size, patch_size, 3)
    assert one["parameters"] == sum(row["parameters"] for row in one["rows"])


@pytest.mark.parametrize(
    ("name", "patch_size"),
    [("bergmann", 40), ("chow", 48), ("gong", 24), ("oh_yun", 96), ("vae", 40)],
)
def test_patches_that_the_strides_do_not_divide(name, patch_size):
    with pytest.raises(UsageError, match=f"{name} takes patches .* not {patch_size}"):
        models.build(name, 1, patch_size, {})


def test_names_are_the_four_papers_and_two_baselines():
    assert models.names() == ("bergmann", "chow", "gong", "oh_yun", "vae", "vanilla")
