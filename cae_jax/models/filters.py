"""A fixed bank of filters at several scales: features without a single learned weight.

Every feature is a filter's response, rectified and averaged around a point, the classic chain of
texture analysis (Malik and Perona, "Preattentive texture discrimination with early vision
mechanisms", 1990). The filters, for every scale sigma of SCALES:

  mean         the Gaussian itself, as in Leung and Malik ("Representing and recognizing the visual
               appearance of materials", IJCV 2001), whose bank of edges, bars, spots this follows
  light, dark  spots: the two signs of the Laplacian of the Gaussian (Marr and Hildreth, 1980)
  edge         first derivatives, each sign of its own, to the right, left, down and up
  bar          the absolute second derivative along four directions, steered from three separable
               ones (Freeman and Adelson, "The design and use of steerable filters", PAMI 1991)

and for every wavelength of WAVELENGTHS

  wave         the modulus of a Gabor filter's even and odd response (Gabor, "Theory of
               communication", 1946; Daugman, 1985), along four directions; its Gaussian has 0.56
               wavelengths, a bandwidth of one octave (Petkov and Kruizinga, 1997)

Of colour images these are of the mean of the channels, and of the two opponent colours (van de
Sande et al., PAMI 2010) there are "mean" and "gradient", the modulus of the first derivatives.
Derivatives are multiplied by sigma to their order (Lindeberg, 1998), so that a pattern and the
same pattern twice as large give the same response at their scales.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from cae_jax.types import Variables

STRIDES = (4, 8)
SCALES = (1, 2, 4, 8)  # sigma of the Gaussians, in pixels
WAVELENGTHS = (4, 8, 16)  # of the Gabor filters, in pixels
ANGLES = (0, 45, 90, 135)  # degrees from the rows, of what a bar or a wave varies along
STAGE = "filters"
_PER_WAVELENGTH = 0.56  # a Gabor filter's sigma
_TRUNCATE = 4  # kernels end at this many sigma, as SciPy's do
_TILE = 64  # outputs that a matrix product makes of a part of a row
_OPPONENTS = np.array([[1, -1, 0], [1, 1, -2]], np.float32) / np.sqrt([[2], [6]], dtype=np.float32)
# TF32, a GPU's default, would keep three digits of a response
_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def names(channels: int) -> tuple[str, ...]:
    """Returns what each feature is, of images with 1 or 3 channels, e.g. "bar 45, sigma 2"."""
    kinds = ["mean", "light", "dark", *(f"edge {way}" for way in ("right", "left", "down", "up"))]
    kinds += [f"bar {angle}" for angle in ANGLES]
    found = [f"{kind}, sigma {sigma}" for sigma in SCALES for kind in kinds]
    found += [f"wave {angle}, wavelength {w}" for w in WAVELENGTHS for angle in ANGLES]
    if channels == 3:
        kinds = [f"{kind} of {pair}" for kind in ("mean", "gradient") for pair in ("R-G", "R+G-2B")]
        found += [f"{kind}, sigma {sigma}" for sigma in SCALES for kind in kinds]
    return tuple(found)


def grid(side: int, stride: int) -> int:
    """Returns how many points stand along a side of that many pixels."""
    return -(-side // stride)


def extract(variables: Variables, images: jax.Array, stride: int = 8) -> dict[str, jax.Array]:
    """Returns the features of images.

    Args:
      variables: not looked at; a network's weights elsewhere.
      images: float32 [B, H, W, C] in [0, 1], C of 1 or 3. Filters meet them mirrored at a border.
      stride: pixels between two points of the grid, 4 or 8. Responses around a point are averaged
        by a Gaussian of half of that or the filter's own, whichever is wider.

    Returns:
      {"filters": float32 [B, h, w, c]}, h = ceil(H / stride), c and their order as in `names`, in
      the unit of the images.

    Raises:
      ValueError: images of another shape, or another stride.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images must be [B, H, W, 1 or 3], got {images.shape}")
    if stride not in STRIDES:
        raise ValueError(f"stride={stride}: must be one of {STRIDES}")
    size = images.shape[1:3]
    gray = jnp.mean(images, axis=-1)
    found = []
    for sigma in SCALES:
        step = min(sigma, stride)
        parts = _edges_and_bars(derivatives(gray, sigma, step), sigma)
        found.append(_average(parts, size, step, stride, max(sigma, stride / 2)))
    for wavelength in WAVELENGTHS:
        step = min(wavelength // 2, stride)
        parts = [jnp.hypot(even, odd) for even, odd in gabor(gray, wavelength, step)]
        found.append(_average(parts, size, step, stride, max(wavelength / 2, stride / 2)))
    if images.shape[-1] == 3:
        opponents = _product("bhwc,oc->obhw", images, _OPPONENTS)
        flat = opponents.reshape(-1, *size)
        for sigma in SCALES:
            step = min(sigma, stride)
            d = derivatives(flat, sigma, step)
            both = [d[0, 0], sigma * jnp.hypot(d[0, 1], d[1, 0])]
            parts = [one for kind in both for one in kind.reshape(2, -1, *kind.shape[1:])]
            found.append(_average(parts, size, step, stride, max(sigma, stride / 2)))
    return {STAGE: jnp.concatenate(found, axis=-1)}


def derivatives(images: jax.Array, sigma: float, step: int = 1) -> dict[tuple[int, int], jax.Array]:
    """Returns the Gaussian derivatives up to the second order: SciPy's `gaussian_filter`.

    Args:
      images: float32 [B, H, W].
      sigma: of the Gaussian, in pixels.
      step: every so many rows and columns alone, from the first on.

    Returns:
      By (order down the rows, order along a row): float32 [B, ceil(H / step), ceil(W / step)], per
      pixel to the power of the order.
    """
    kernels = [_derivative(sigma, order) for order in (0, 1, 2)]
    found: dict[tuple[int, int], jax.Array] = {}
    for i, rows in enumerate(_down(images, kernels, step)):
        across = _across(rows, kernels[: 3 - i], step)
        found |= {(i, j): response for j, response in enumerate(across)}
    return found


def gabor(images: jax.Array, wavelength: float, step: int = 1) -> list[tuple[jax.Array, jax.Array]]:
    """Returns the even and the odd response of the Gabor filters along the four ANGLES.

    The filter is G(x, y) (2 exp(2 pi i (x cos a + y sin a) / wavelength) - d), with G a Gaussian of
    sum 1 and d so that a constant image gives 0: a wave of that length has its own amplitude as
    modulus. It is a product of complex filters along x and y, so that nine real separable filters
    make all eight.

    Args:
      images: float32 [B, H, W].
      wavelength: in pixels.
      step: as in `derivatives`.
    """
    sigma = _PER_WAVELENGTH * wavelength
    w = 2 * math.pi / wavelength
    constant = 2 * math.exp(-((w * sigma) ** 2) / 2)
    plain = _derivative(sigma, 0)
    at = np.arange(len(plain)) - len(plain) // 2
    cos, sin, cosd, sind = (
        plain * wave(k * at) for k in (w, w / math.sqrt(2)) for wave in (np.cos, np.sin)
    )
    rows = _down(images, [plain, cos, sin, cosd, sind], step)
    mean, even0, odd0 = _across(rows[0], [plain, cos, sin], step)
    (even90,), (odd90,) = _across(rows[1], [plain], step), _across(rows[2], [plain], step)
    (cc, cs), (sc, ss) = (_across(r, [cosd, sind], step) for r in rows[3:])
    waves = [(even0, odd0), (cc - ss, sc + cs), (even90, odd90), (cc + ss, sc - cs)]
    return [(2 * even - constant * mean, 2 * odd) for even, odd in waves]


def _edges_and_bars(d: dict[tuple[int, int], jax.Array], sigma: float) -> list[jax.Array]:
    """What `names` lists of a scale, of its derivatives."""
    x, y = sigma * d[0, 1], sigma * d[1, 0]
    xx, xy, yy = (sigma**2 * d[order] for order in ((0, 2), (1, 1), (2, 0)))
    spot, half = xx + yy, (xx + yy) / 2
    one_sided = [-spot, spot, x, -x, y, -y]  # a light spot has a negative Laplacian
    bars = [xx, half + xy, yy, half - xy]
    return [d[0, 0], *(jnp.maximum(r, 0) for r in one_sided), *(jnp.abs(r) for r in bars)]


def _derivative(sigma: float, order: int) -> np.ndarray:
    """The kernel of a Gaussian's derivative, to be correlated with: SciPy's, mirrored."""
    radius = int(_TRUNCATE * sigma + 0.5)
    at = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (at / sigma) ** 2)
    kernel /= kernel.sum()
    return kernel * (np.ones(at.shape), at / sigma**2, (at**2 / sigma**2 - 1) / sigma**2)[order]


def _down(x: jax.Array, kernels: list[np.ndarray], step: int) -> list[jax.Array]:
    """Correlations of [B, H, W] with each kernel down the rows: [B, ceil(H / step), W]."""
    parts, matrix = _tiles(x, 1, kernels, step)  # [t, B, L, W]
    found = _product("kol,tblw->kbtow", matrix, parts)
    whole = found.reshape(len(kernels), x.shape[0], -1, x.shape[2])
    return list(whole[:, :, : grid(x.shape[1], step)])


def _across(x: jax.Array, kernels: list[np.ndarray], step: int) -> list[jax.Array]:
    """Correlations of [B, H, W] with each kernel along the rows: [B, H, ceil(W / step)]."""
    parts, matrix = _tiles(x, 2, kernels, step)  # [t, B, H, L]
    found = _product("tbhl,kol->kbhto", parts, matrix)
    whole = found.reshape(len(kernels), *x.shape[:2], -1)
    return list(whole[..., : grid(x.shape[2], step)])


def _tiles(
    x: jax.Array, axis: int, kernels: list[np.ndarray], step: int
) -> tuple[jax.Array, np.ndarray]:
    """An axis cut into overlapping parts of L samples, which one banded matrix [K, outputs, L]
    filters: products as fast as a device has them, and a cost that grows with the side alone."""
    length, n = len(kernels[0]), x.shape[axis]
    tile = min(_TILE, grid(n, step))
    n_tiles = grid(grid(n, step), tile)
    reach = (tile - 1) * step + length
    radius = length // 2
    behind = (n_tiles - 1) * tile * step + reach - radius - n
    widths = [(radius, max(behind, 0)) if i == axis else (0, 0) for i in range(x.ndim)]
    padded = jnp.pad(x, widths, "symmetric")
    starts = range(0, n_tiles * tile * step, tile * step)
    parts = [jax.lax.slice_in_dim(padded, i, i + reach, axis=axis) for i in starts]
    matrix = np.zeros((len(kernels), tile, reach), np.float32)
    for i in range(tile):
        matrix[:, i, i * step : i * step + length] = kernels
    return jnp.stack(parts), matrix


def _average(
    parts: list[jax.Array], size: tuple[int, ...], step: int, stride: int, sigma: float
) -> jax.Array:
    """Responses [B, h', w'], sampled every `step` pixels, around the points of the grid:
    [B, h, w, c]."""
    down, across = (_weights(n, step, stride, sigma) for n in size)
    rows = _product("ih,cbhw->cbiw", down, jnp.stack(parts))
    return _product("jw,cbiw->bijc", across, rows)


def _weights(n: int, step: int, stride: int, sigma: float) -> np.ndarray:
    """float32 [points, samples]: Gaussian weights, of sum 1 inside of the image.

    The points are the centers of equal cells, where resizing a map takes them to be.
    """
    points = grid(n, stride)
    centers = (np.arange(points) + 0.5) * n / points - 0.5
    away = np.arange(0, n, step) - centers[:, None]
    weights = np.exp(-0.5 * (away / sigma) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
