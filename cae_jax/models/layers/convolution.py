"""Convolutions that stay fast where XLA:CPU's own do not: few pixels or channels, and gradients.

The gradients are written out as convolutions in the layout that XLA:CPU runs fast: batch, space,
channels. Its own kernel gradients are of another one, which it rearranges outside of loops alone:
in a loop they run 50 times slower.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# A 3x3 convolution of 512 channels on 2x2 pixels ran at 0.8 GFLOP/s, on 4x4 at 54: below, the
# patches are laid out and multiplied as one matrix, which costs their copies and little else.
_FEW_PIXELS = 4
_FEW_CHANNELS = 8  # of an output: up to here `_to_few_channels` is faster
_MANY_CHANNELS = 64  # of an output of one input channel: from here a matrix product is faster
# Kernel gradients are summed over parts of a batch, whose input and cotangent should stay in a
# core's cache: on one core 39 -> 93 GFLOP/s for 16 maps of 32 x 32 x 64 to 64 channels, kernel 3,
# 25 -> 100 for 4 maps of 64 x 64 x 96 to 256. Under 32 output channels parts are slower.
_CACHE, _SPLIT_CHANNELS = 2**21, 32
_LAYOUT = ("NHWC", "HWIO", "NHWC")

Pads = list[tuple[int, int]] | tuple[tuple[int, int], ...]


def convolve(x: jax.Array, w: jax.Array, stride: tuple[int, int], pads: Pads) -> jax.Array:
    """Returns the strided convolution of x [N, H, W, Ci] with w [kh, kw, Ci, Co].

    Args:
      x: input.
      w: kernel, not flipped.
      stride: (sh, sw).
      pads: (before, after) for H and W; negative crops.

    Returns:
      [N, H', W', Co], H' = (H + before + after - kh) // sh + 1.
    """
    sizes = zip(x.shape[1:3], pads, w.shape[:2], stride, strict=True)
    height, width = ((n + sum(pad) - k) // s + 1 for n, pad, k, s in sizes)
    if height * width > _FEW_PIXELS:
        if jax.default_backend() == "cpu":
            return _on_cpu(x, w, stride, tuple(pads))
        return _plain(x, w, stride, pads)
    if x.shape[1:3] == w.shape[:2] and height * width == 1 and not any(map(any, pads)):
        return (x.reshape(len(x), -1) @ w.reshape(-1, w.shape[3]))[:, None, None]
    # Which pixel each tap of each output meets, as a product with zeros and ones: a slice for every
    # one of them is a kernel for every one of them, to be compiled.
    rows, columns = (
        jnp.asarray(_meets(n, k, s, m, before), x.dtype)
        for n, k, s, m, (before, _) in zip(
            x.shape[1:3], w.shape[:2], stride, (height, width), pads, strict=True
        )
    )
    exact = lax.Precision.HIGHEST
    views = jnp.einsum("hip,nprc,wjr->nhwijc", rows, x, columns, precision=exact)
    return jnp.einsum("nhwijc,ijco->nhwo", views, w)


def _meets(n: int, kernel: int, stride: int, outputs: int, before: int) -> np.ndarray:
    """1 where tap t of output o meets pixel i along an axis, else 0: [outputs, kernel, n]."""
    at = stride * np.arange(outputs)[:, None] + np.arange(kernel) - before
    return np.asarray(at[..., None] == np.arange(n), np.float32)


def _plain(
    x: jax.Array,
    w: jax.Array,
    stride: tuple[int, int],
    pads: Pads,
    lhs_dilation: tuple[int, int] | None = None,
    rhs_dilation: tuple[int, int] | None = None,
) -> jax.Array:
    return lax.conv_general_dilated(x, w, stride, pads, lhs_dilation, rhs_dilation, _LAYOUT)


def _pad(x: jax.Array, pads: Pads) -> jax.Array:
    """Pads, or crops, the second and third axis with zeros."""
    padding = ((0, 0, 0), *((a, b, 0) for a, b in pads), *((0, 0, 0),) * (x.ndim - 3))
    return lax.pad(x, jnp.zeros((), x.dtype), padding)


def _shifted(
    x: jax.Array, kernel: tuple[int, ...], stride: tuple[int, int], pads: Pads
) -> list[jax.Array]:
    """What each tap of a kernel [kh, kw, ...] meets, row by row: kh * kw views [N, H', W', ...]."""
    x = _pad(x, pads)
    rows, columns = (
        [slice(i, n - k + i + 1, s) for i in range(k)]
        for n, k, s in zip(x.shape[1:3], kernel[:2], stride, strict=True)
    )
    return [x[:, r, c] for r in rows for c in columns]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _on_cpu(x: jax.Array, w: jax.Array, stride: tuple[int, int], pads: Pads) -> jax.Array:
    if w.shape[2] == 1:
        return _of_one_channel(x, w, stride, pads)
    if w.shape[3] <= _FEW_CHANNELS and stride == (1, 1):
        return _to_few_channels(x, w, pads)
    return _plain(x, w, stride, pads)


def _of_one_channel(x: jax.Array, w: jax.Array, stride: tuple[int, int], pads: Pads) -> jax.Array:
    """`convolve` for Ci = 1: the taps' products are summed in one pass over the output.

    Bound by memory, which XLA's own reads more than once: 16 maps of 128 x 128 take 0.4 ms and
    12.6 ms (3x3, one channel to one), 1.3 and 8.9 ms (to 16).
    """
    views = _shifted(x, w.shape, stride, pads)
    taps = zip(views, w.reshape(-1, w.shape[3]), strict=True)
    return functools.reduce(jnp.add, (view * tap for view, tap in taps))


def _to_few_channels(x: jax.Array, w: jax.Array, pads: Pads) -> jax.Array:
    """`convolve` for a small Co, stride 1: one matrix product gives what every input pixel adds
    through each tap, which is then shifted into place and summed.

    9 maps of 64 x 64 x 160 to 4 channels, 2x2, take 5.3 ms, XLA's own 15.5 ms, on one core.
    """
    kh, kw, _, co = w.shape
    each = jnp.einsum("nhwc,ijco->nhwijo", x, w).reshape(*x.shape[:3], kh * kw, co)
    each = lax.optimization_barrier(_pad(each, pads))  # else every tap pads anew
    views = _shifted(each, w.shape, (1, 1), ((0, 0), (0, 0)))
    return functools.reduce(jnp.add, (view[:, :, :, t] for t, view in enumerate(views)))


def _forward(x: jax.Array, w: jax.Array, stride: tuple[int, int], pads: Pads) -> tuple:
    return _on_cpu(x, w, stride, pads), (x, w)


def _backward(
    stride: tuple[int, int], pads: Pads, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = saved
    sizes = zip(x.shape[1:3], w.shape[:2], stride, g.shape[1:3], pads, strict=True)
    input_pads, kernel_pads = [], []  # of the cotangent, dilated; of the input, to what taps meet
    for n, k, s, m, (before, _) in sizes:
        reach = (m - 1) * s + 1  # of the dilated cotangent
        input_pads.append((k - 1 - before, n + before - reach))
        kernel_pads.append((before, reach + k - 1 - n - before))
    mirrored = w[::-1, ::-1].swapaxes(2, 3)
    if stride == (1, 1):
        by_input = convolve(g, mirrored, stride, input_pads)
    else:
        by_input = _plain(g, mirrored, (1, 1), input_pads, lhs_dilation=stride)
    return by_input, _kernel_gradient(x, w, g, stride, kernel_pads)


_on_cpu.defvjp(_forward, _backward)


def _kernel_gradient(
    x: jax.Array, w: jax.Array, g: jax.Array, stride: tuple[int, int], pads: Pads
) -> jax.Array:
    """What every tap meets of the padded input, times the cotangent g, summed over images and
    pixels: [kh, kw, Ci, Co]."""
    n, rows, _, co = g.shape
    if x.shape[3] == 1 and co >= _MANY_CHANNELS:
        views = jnp.stack(_shifted(x, w.shape, stride, pads))
        return jnp.einsum("tnhwi,nhwo->tio", views, g).reshape(w.shape)
    each = (x.nbytes + g.nbytes) // n
    if n * each <= _CACHE or co < _SPLIT_CHANNELS:
        return _correlate(x, g, stride, pads)
    if each <= _CACHE:
        size = 4 if 4 * each <= _CACHE else 1  # 2 and 3 are slower than either
        # from numbers that XLA does not fold into the parts' kernels, which are the same then and
        # compiled once: 9.3 -> 6.3 s of processor time for a step of Table 4
        starts = lax.optimization_barrier(jnp.arange(0, n - n % size, size))
        cut = functools.partial(lax.dynamic_slice_in_dim, slice_size=size)
        parts = [_correlate(cut(x, at), cut(g, at), stride, pads) for at in starts]
        if n % size:
            parts.append(_correlate(x[n - n % size :], g[n - n % size :], stride, pads))
        return functools.reduce(jnp.add, parts)
    # one image at a time in bands of rows, in a loop: unrolled, they take long to compile
    x, (s, _), k = _pad(x, pads), stride, w.shape[0]
    tall = -(-rows // -(-2 * each // _CACHE))

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, g = (whole[None] for whole in image)
        ends = [(i, min(i + tall, rows)) for i in range(0, rows, tall)]
        bands = ((x[:, i * s : (j - 1) * s + k], g[:, i:j]) for i, j in ends)
        none = ((0, 0), (0, 0))
        return functools.reduce(jnp.add, (_correlate(*b, stride, none) for b in bands), total), None

    return lax.scan(add, jnp.zeros_like(w), (x, g))[0]


def _correlate(x: jax.Array, g: jax.Array, stride: tuple[int, int], pads: Pads) -> jax.Array:
    """`_kernel_gradient` of a part: the input's channels are the batch, the images the channels."""
    x, g = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
    return _plain(x, g, (1, 1), pads, rhs_dilation=stride).transpose(1, 2, 0, 3)


def same_pads(sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]) -> Pads:
    """Returns the padding of SAME: output ceil(n / s), what is odd goes behind."""
    totals = [
        max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, stride, strict=True)
    ]
    return [(total // 2, total - total // 2) for total in totals]
