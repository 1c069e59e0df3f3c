"""The tables printed back, and how a model is found by its name."""

import math
import re

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import lax

from cae_jax import models
from cae_jax.models import bergmann
from cae_jax.models.layers.table import Table, costs
from cae_jax.types import UsageError

# fmt: off
# Table 4 as the thesis prints it (specification, appendix): kernel, stride, padding, size, width.
PRINTED = {
    "Conv1": (4, 2, 1, 64, 32), "Conv2": (4, 2, 1, 32, 32), "Conv3": (3, 1, 1, 32, 32),
    "Conv4": (4, 2, 1, 16, 64), "Conv5": (3, 1, 1, 16, 64), "Conv6": (4, 2, 1, 8, 128),
    "Conv7": (3, 1, 1, 8, 64), "Conv8": (3, 1, 0, 8, 32), "Conv9": (8, 1, 1, 1, 100),
    "Deconv1": (3, 8, 1, 8, 32), "Deconv2": (3, 1, 1, 8, 64), "Deconv3": (4, 1, 1, 8, 128),
    "Deconv4": (3, 2, 1, 16, 64), "Deconv5": (4, 1, 1, 16, 64), "Deconv6": (3, 2, 1, 32, 32),
    "Deconv7": (4, 1, 1, 32, 32), "Deconv8": (4, 2, 1, 64, 32), "Deconv9": (4, 2, 1, 128, 1),
}
# Section 1.1: where a literal reading of the print does not give the printed size.
DISAGREE = {"Conv8", "Conv9", "Deconv1", "Deconv3", "Deconv4", "Deconv5", "Deconv6", "Deconv7"}
# fmt: on


def table4(decoder: str = "table4", channels: int = 1, patch_size: int = 128) -> list:
    tables = bergmann.Model(channels, patch_size, decoder).tables()
    rows = (*tables["encoder"], *tables["decoder"])
    return costs(rows, (patch_size, patch_size, channels), channels)


def test_table_4_is_as_printed():
    rows = [cost.row for cost in table4()]
    assert [row.name for row in rows] == list(PRINTED)
    for row in rows:
        kernel, stride, padding, side, width = PRINTED[row.name]
        assert (row.kernel, row.stride, row.printed_padding) == (kernel, stride, padding)
        assert row.printed == (side, side, width)
        assert row.features == (width if row.name != "Deconv9" else None)
    assert {row.name for row in rows if row.note} == DISAGREE
    assert {row.name for row in rows if row.linear} == {"Conv9", "Deconv9"}
    assert {row.name for row in rows if row.padding != "SAME"} == {"Conv9"}


def test_notes_stand_where_print_and_arithmetic_disagree():
    """PyTorch's size rules with the printed padding, on the printed size of the row before."""
    side, wrong = 128, set()
    for name, (kernel, stride, padding, printed, _) in PRINTED.items():
        if name.startswith("Deconv"):
            literal = (side - 1) * stride - 2 * padding + kernel
        else:
            literal = (side + 2 * padding - kernel) // stride + 1
        if literal != printed:
            wrong.add(name)
        side = printed
    assert wrong == {cost.row.name for cost in table4() if cost.row.note}


@pytest.mark.parametrize("cost", table4(), ids=lambda cost: cost.row.name)
def test_every_row_has_the_printed_size(cost):
    assert cost.output == cost.row.printed


@pytest.mark.parametrize(
    ("decoder", "parameters", "millions_of_macs"),
    [("table4", 894_053, 132.1), ("mirror", 1_048_549, 121.3)],
)
def test_the_cost_of_the_specification(decoder, parameters, millions_of_macs):
    found = table4(decoder)
    assert sum(cost.parameters for cost in found) == parameters
    assert round(sum(cost.macs for cost in found) / 1e6, 1) == millions_of_macs


@pytest.mark.parametrize("decoder", ["table4", "mirror"])
@pytest.mark.parametrize("patch_size", [32, 256])
def test_a_whole_image_has_table_4_at_half_its_size(decoder, patch_size):
    """A layer more on either side, of which the reading is ours; nothing printed to contradict."""
    model = models.build("bergmann", 1, patch_size, {"decoder": decoder, "whole_image": "true"})
    patch = jax.ShapeDtypeStruct((2, patch_size, patch_size, 1), np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), patch)["params"]
    inner = {cost.row.name: cost for cost in table4(decoder, patch_size=patch_size // 2)}
    tables, shape = model.tables(), patch.shape[1:]
    for part, added in (("encoder", "Conv0"), ("decoder", "Deconv0")):
        assert [row.name for row in tables[part] if row.name not in inner] == [added]
        for cost in costs(tables[part], shape, 1):
            name, shape = cost.row.name, cost.output
            kernel, bias = params[part][name]["kernel"].shape, params[part][name]["bias"].shape
            assert math.prod(kernel) + math.prod(bias) == cost.parameters
            assert not cost.row.printed
            if name == added:
                assert kernel == (4, 4, 1 if part == "encoder" else 32, 32)
                assert shape == (patch_size // 2, patch_size // 2, 32)
                assert "a reading" in cost.row.note
            elif name == "Deconv9":
                assert shape == patch.shape[1:]
            else:
                assert shape == inner[name].output
                if name != "Conv1":  # it sees 32 channels, not the image
                    assert cost.parameters == inner[name].parameters


def test_multiply_accumulates_by_hand():
    side, width, total = 128, 1, 0
    for name, (kernel, _, _, printed, features) in PRINTED.items():
        places = side if name.startswith("Deconv") else printed
        total += places**2 * kernel**2 * width * features
        side, width = printed, features
    assert sum(cost.macs for cost in table4()) == total


@pytest.mark.parametrize("decoder", ["table4", "mirror"])
@pytest.mark.parametrize(("patch_size", "channels"), [(16, 1), (32, 3), (64, 1), (128, 3)])
def test_the_module_is_the_table(decoder, patch_size, channels):
    model = models.build("bergmann", channels, patch_size, {"decoder": decoder})
    patch = jax.ShapeDtypeStruct((2, patch_size, patch_size, channels), np.float32)
    made, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), patch)
    assert made.output.shape == patch.shape
    assert made.aux == {}
    assert set(variables) == {"params"}
    found = table4(decoder, channels, patch_size)
    assert [cost.output for cost in found if cost.row.name == "Conv9"] == [(1, 1, 100)]
    layers = {**variables["params"]["encoder"], **variables["params"]["decoder"]}
    sizes = {name: sum(map(math.prod, shapes_of(leaves))) for name, leaves in layers.items()}
    assert sizes == {cost.row.name: cost.parameters for cost in found}


def shapes_of(tree: dict) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def test_forward_by_plain_convolutions(rng):
    """Table 4 at 32 pixels, with XLA's own transposed convolution and LeakyReLU(0.2)."""
    model = models.build("bergmann", 1, 32, {})
    x = rng.random((3, 32, 32, 1), np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(
        lambda leaf: rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5 or 1, leaf.shape).astype("f"),
        abstract,
    )

    @jax.jit
    def plain(params, x):
        layout = ("NHWC", "HWIO", "NHWC")
        for name, (_, stride, *_) in PRINTED.items():
            layer = params["decoder" if name.startswith("Deconv") else "encoder"][name]
            strides = (2, 2) if name == "Deconv1" else (stride, stride)  # 8 at 128 pixels
            if name.startswith("Deconv"):
                x = lax.conv_transpose(
                    x, layer["kernel"], strides, "SAME", dimension_numbers=layout
                )
            else:
                padding = "VALID" if name == "Conv9" else "SAME"
                x = lax.conv_general_dilated(
                    x, layer["kernel"], strides, padding, dimension_numbers=layout
                )
            x = x + layer["bias"]
            if name not in ("Conv9", "Deconv9"):
                x = jax.numpy.where(x > 0, x, 0.2 * x)
        return x

    expected = np.asarray(plain(variables["params"], x))
    found = jax.jit(model.apply)(variables, x).output
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_only_9_of_64_outputs_of_deconv1_touch_a_weight(rng):
    """Specification 1.1, inconsistency 4: the rest is bias."""
    layer = Table(bergmann.Model().tables()["decoder"][:1], 1)
    x = rng.standard_normal((1, 1, 1, 2), np.float32)  # 2 latent channels tell as much as 100
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)
    bias = variables["params"]["Deconv1"]["bias"]

    @jax.jit
    @jax.jacrev
    def slopes_of(kernel):
        given = {"Deconv1": {"kernel": kernel, "bias": bias}}
        return layer.apply({"params": given}, x)[0].sum(axis=-1)

    slopes = slopes_of(variables["params"]["Deconv1"]["kernel"])
    touched = np.abs(slopes).max(axis=(2, 3, 4, 5)) > 0
    assert touched.shape == (8, 8)
    assert np.argwhere(touched).tolist() == [[row, col] for row in range(3) for col in range(3)]


@pytest.mark.parametrize("name", models.names())
def test_a_built_in_model_is_found_and_gives_back_its_shape(name):
    assert models.resolve(name).__module__ == f"cae_jax.models.{name}"
    model = models.build(name, 1, 128, {})
    assert (model.channels, model.patch_size) == (1, 128)


FORK = """
import flax.linen as nn
from cae_jax.types import Reconstruction

class Net(nn.Module):
    channels: int = 1
    patch_size: int = 128
    width: int = 4
    rate: float = 0.5
    deep: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        for _ in range(2 if self.deep else 1):
            x = nn.Conv(self.width, (3, 3))(x) * self.rate
        return Reconstruction(nn.Conv(self.channels, (1, 1))(x), {})
"""
HALF = """
class Half(nn.Module):
    channels: int = 1
    patch_size: int = 128

    @nn.compact
    def __call__(self, x, train=False):
        return Reconstruction(x[:, ::2], {})
"""
NOISY = """
import flax.linen as nn
import jax
from cae_jax.types import Reconstruction

class Model(nn.Module):
    channels: int = 1
    patch_size: int = 128
    always: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dropout(0.5, deterministic=not train)(x)
        if train or self.always:
            x = x + jax.random.normal(self.make_rng("noise"), x.shape)
        return Reconstruction(nn.Conv(self.channels, (1, 1))(x), {})
"""


@pytest.fixture
def fork(tmp_path, monkeypatch) -> str:
    """Somebody's own package `fork_N` on the path, with models; its name."""
    package = f"fork_{tmp_path.name}"  # never imported before
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "one.py").write_text(FORK)
    (folder / "named.py").write_text(FORK.replace("Net", "Model") + HALF)
    (folder / "two.py").write_text(FORK + HALF)
    (folder / "noisy.py").write_text(NOISY)
    (folder / "broken.py").write_text("import no_such_thing")
    (folder / "empty.py").write_text("from flax.linen import Dense\n")
    monkeypatch.syspath_prepend(tmp_path)
    return package


@pytest.mark.parametrize(
    ("name", "cls"),
    [("one", "Net"), ("one:Net", "Net"), ("named", "Model"), ("named:Half", "Half")],
)
def test_a_forks_own_model(fork, name, cls):
    found = models.resolve(f"{fork}.{name}")
    assert issubclass(found, nn.Module)
    assert (found.__module__, found.__name__) == (f"{fork}.{name.split(':')[0]}", cls)


def test_a_file_without_a_model_is_none(tmp_path, monkeypatch):
    """Networks of a method stand in models/ too."""
    for name, text in [("net", FORK), ("mine", HALF.replace("Half", "Model")), ("__init__", "")]:
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(models, "__path__", [str(tmp_path)])
    assert models.names.__wrapped__() == ("mine",)


def test_a_model_may_be_random_while_it_trains(fork, rng):
    model = models.build(f"{fork}.noisy", 1, 8, {})
    x = rng.random((1, 8, 8, 1), np.float32)
    variables = model.init(jax.random.key(0), x)
    one, same, other = (
        model.apply(variables, x, train=True, rngs={"params": jax.random.key(i)}).output
        for i in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-2


def test_a_fork_of_one_file(tmp_path, monkeypatch):
    name = f"alone_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FORK)
    monkeypatch.syspath_prepend(tmp_path)
    assert models.resolve(name).__name__ == "Net"


def test_options_are_read_as_their_fields_types(fork):
    given = {"width": "6", "rate": "0.25", "deep": "true"}
    model = models.build(f"{fork}.one", 3, 24, given)
    assert (model.channels, model.patch_size) == (3, 24)
    assert (model.width, model.rate, model.deep) == (6, 0.25, True)
    assert models.build(f"{fork}.one", 3, 24, {"deep": "0"}).deep is False


@pytest.mark.parametrize(
    ("name", "patch_size", "options", "message"),
    [
        ("bergman", 128, {}, "unknown model 'bergman': did you mean bergmann?"),
        ("zzz", 128, {}, "unknown model 'zzz': known: "),
        ("layers", 128, {}, "unknown model 'layers': "),
        ("bergmann", 100, {}, "multiple of 16 pixels, not 100"),
        ("bergmann", 8, {}, "multiple of 16 pixels, not 8"),
        ("bergmann", 48, {"whole_image": "1"}, "whole_image takes patches of a multiple of 32 pix"),
        ("bergmann", 64, {"decoder": "miror"}, "unknown decoder 'miror': did you mean mirror?"),
        ("bergmann", 64, {"decodr": "mirror"}, "unknown option of bergmann 'decodr': did you mean"),
        ("bergmann", 64, {"channels": "3"}, "unknown option of bergmann 'channels'"),
        ("bergmann:Net", 64, {}, "--model=bergmann:Net"),
        ("FORK.one", 24, {"width": "wide"}, "FORK.one: width takes a"),
        ("FORK.one", 24, {"rate": "fast"}, "FORK.one: rate takes a float, got 'fast'"),
        ("FORK.one", 24, {"deep": "2"}, "FORK.one: deep takes a bool, got '2'"),
        ("FORK.one:Nut", 24, {}, "FORK.one has no Flax module 'Nut'"),
        ("FORK.two", 24, {}, "name it as package.module:Name"),
        ("FORK.empty", 24, {}, "FORK.empty has no Flax module"),
        ("FORK.three", 24, {}, "cannot import FORK.three"),
        ("FORK.broken", 24, {}, "cannot import FORK.broken: No module named 'no_such_thing'"),
        ("FORK.named:Half", 24, {}, "makes (12, 24, 1) of a patch (24, 24, 1)"),
        ("FORK.noisy", 24, {"always": "1"}, "asks for a random key (make_rng) when it does not tr"),
        ("FORK.one", 24, {"width": "-1"}, "--model=FORK.one cannot take 24-pixel patches"),
    ],
)
def test_what_cannot_be_built(fork, name, patch_size, options, message):
    with pytest.raises(UsageError, match=re.escape(message.replace("FORK", fork))) as caught:
        models.build(name.replace("FORK", fork), 1, patch_size, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "own", "a_number"),  # weights and bias that make one number, and those that read it
    [
        ("bergmann", 100, 8 * 8 * 32 + 1 + 3 * 3 * 32),
        ("oh_yun", 192, 3 * 3 * 160 + 1 + 3 * 3 * 192),
        ("chow", 50, 100 + 1 + 100),
        ("vanilla", 100, 128 * 128 + 1 + 128 * 128),
    ],
)
def test_a_code_of_another_size(name, own, a_number):
    def parameters(**options):
        model = models.build(name, 1, 128, options)
        patch = jax.ShapeDtypeStruct((1, 128, 128, 1), np.float32)
        params = jax.eval_shape(model.init, jax.random.key(0), patch)["params"]
        counted = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        rows = [row for part in model.tables().values() for row in part]
        assert counted == sum(cost.parameters for cost in costs(tuple(rows), (128, 128, 1), 1))
        return counted, rows

    (before, rows), (same, equal), (after, others) = (
        parameters(**given) for given in ({}, {"code": str(own)}, {"code": "7"})
    )
    assert (same, equal) == (before, rows)
    assert before - after == (own - 7) * a_number
    changed = [two for one, two in zip(rows, others, strict=True) if one != two]
    assert [(row.features, row.printed, row.note) for row in changed] == [(7, (), "")]


def test_the_vanilla_autoencoder_is_two_products(rng):
    model, x = models.build("vanilla", 3, 5, {"code": "4"}), rng.random((2, 5, 5, 3), "f")
    params = model.init(jax.random.key(0), x)["params"]
    hidden, output = params["encoder"]["Hidden"], params["decoder"]["Output"]
    assert (hidden["kernel"].shape, output["kernel"].shape) == ((75, 4), (4, 75))
    code = x.reshape(2, 75) @ hidden["kernel"]
    made = np.where(code < 0, 0.2 * code, code) @ output["kernel"]  # biases are 0 at first
    found = model.apply({"params": params}, x).output
    np.testing.assert_allclose(found, made.reshape(x.shape), rtol=1e-4, atol=1e-6)
