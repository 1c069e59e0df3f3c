"""Flags of one model or one entry alone, in a grid: planned, nothing is run."""

import pytest

from cae_jax.runs import benchmark, thesis
from cae_jax.runs.config import configure
from cae_jax.types import UsageError


def planned(of_model, models=("bergmann", "gong"), losses=("l2",)):
    settings = configure(epochs=7)
    found = thesis.grid(settings, models, [0, 1], losses, of_model)
    return {(c.options.model, c.seed, c.options.loss): c for c in found}


def test_a_model_has_its_own_flags_in_the_grid():
    found = planned({"gong": {"learning_rate": "0.5", "epochs": "3", "redraw_patches": "true"}})
    assert len(found) == 4
    for (model, _, _), config in found.items():
        o = config.options
        wanted = (0.5, 3, True) if model == "gong" else (2e-4, 7, False)
        assert (o.learning_rate, o.epochs, o.redraw_patches) == wanted
    both = planned({"gong": {"distance": "l1"}}, losses=("l2", "ssim"))
    assert both["gong", 0, "ssim"].distance == "l1"
    assert both["bergmann", 0, "ssim"].distance == "ssim"


@pytest.mark.parametrize(
    ("of_model", "said"),
    [
        ({"gon": {"epochs": "3"}}, "unknown model in --flags_of_model 'gon': did you mean gong"),
        ({"chow": {"epochs": "3"}}, "known: bergmann, gong"),
        ({"gong": {"epoch": "3"}}, "unknown flag of --flags_of_model 'epoch': did you mean epochs"),
        ({"gong": {"epochs": "x"}}, "--flags_of_model: epochs takes a int, got 'x'"),
        ({"gong": {"seed": "3"}}, "--flags_of_model=gong:seed: is the grid's, not a model's"),
    ],
)
def test_what_cannot_be_of_a_model_is_named(of_model, said):
    with pytest.raises(UsageError, match=said):
        planned(of_model)


def grids(of_method, tmp_path, entries=("variation_model", "gmm_texture"), **given):
    given = {"dataset": "synthetic", "category": "tablet", **given}
    found = benchmark.grids(entries, [0], [0], given, {}, tmp_path, of_method)
    return {grid.title: grid.configs[0] for grid in found}


def test_an_entry_has_its_own_flags_in_the_benchmark(tmp_path):
    own = {"gmm_texture": {"components": "3", "image_size": "64"}}
    found = grids(own, tmp_path, image_size=96)
    assert found["gmm_texture"].options.components == 3
    assert [found[name].image_size for name in ("gmm_texture", "variation_model")] == [64, 96]


def test_an_entry_goes_before_its_method(tmp_path):
    flags = tmp_path / "mine.flags"
    flags.write_text("--method=gmm_texture\n")
    own = {"gmm_texture": {"components": "3", "dimensions": "4"}, "mine": {"components": "5"}}
    found = grids(own, tmp_path, (str(flags), "gmm_texture"))
    assert {n: (c.options.components, c.options.dimensions) for n, c in found.items()} == {
        "mine": (5, 4),
        "gmm_texture": (3, 4),
    }
    with pytest.raises(UsageError, match="unknown name in --flags_of_method 'min': did you mean"):
        grids({"min": {"components": "5"}}, tmp_path, (str(flags), "gmm_texture"))
    with pytest.raises(UsageError, match="unknown flag of --flags_of_method 'component'"):
        grids({"mine": {"component": "5"}}, tmp_path, (str(flags), "gmm_texture"))


@pytest.mark.parametrize("fault", ["seed=3", "method=gaussian", "category=screw", "workdir=x"])
@pytest.mark.parametrize("flag", ["flags_of", "flags_of_method"])
def test_what_the_grid_decides_is_no_flag_of_a_part(flag, fault):
    name = fault.partition("=")[0]
    with pytest.raises(UsageError, match=f"--{flag}=a:{name}: is the grid's"):
        benchmark.flags_by_category(["a:epochs=3," + fault], flag)
