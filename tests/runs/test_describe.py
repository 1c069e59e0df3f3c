"""Methods in rows."""

import json
import pathlib

import pytest

from cae_jax import methods
from cae_jax.methods import f_anogan
from cae_jax.runs import config, describe
from cae_jax.types import UsageError, WeightsError


def test_rows():
    """f-AnoGAN has the 24.57 million parameters that Bergmann et al. (IJCV 2021) count."""
    gan, variation = describe.of_methods(["f_anogan", "variation_model"])
    assert gan["learns"] == "steps"
    assert round(gan["parameters"] / 1e6, 1) == 24.6
    assert sum(gan["networks"].values()) == gan["parameters"]
    assert set(gan["networks"]) == {"critic", "encoder", "generator"}
    # a mean and a deviation of every gray pixel
    assert (variation["learns"], variation["parameters"]) == ("fit", 2 * 256 * 256)
    assert (variation["frozen"], variation["distances"]) == (0, ["variation", "deviation"])
    json.dumps([gan, variation])
    lines = describe.text([gan, variation]).splitlines()
    assert f"{gan['parameters']:,}" in lines[1]
    assert f"generator {gan['networks']['generator']:,}" in lines[2]
    assert lines[3].split()[:4] == ["variation_model", "fit", "131,072", "0"]


def test_weights_that_are_not_there(monkeypatch):
    def make(*_):
        raise WeightsError("no weights of net")

    monkeypatch.setattr(f_anogan, "make", make)
    methods.build.cache_clear()
    (row,) = describe.of_methods(["f_anogan"])
    assert (row["cause"], row["parameters"]) == ("no weights of net", None)
    assert "no weights of net" in describe.text([row])


def test_an_unknown_method():
    with pytest.raises(UsageError, match="unknown method 'gausian': did you mean gaussian"):
        describe.of_methods(["gausian"])


def test_the_page_of_every_flag_is_of_this_code():
    made = describe.every_flag()
    path = pathlib.Path(__file__).parents[2] / "docs/flags.md"
    assert made == path.read_text(encoding="utf-8"), "experiments.describe --every_flag has it"
    for method in methods.names():
        for name, field in config.flags_of(method).items():
            row = next(line for line in made.splitlines() if line.startswith(f"| `{name}` |"))
            assert field.metadata["part"] in row
