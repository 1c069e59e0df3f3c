"""The networks of bidirectional GANs: the papers' sizes, and their layers by NumPy."""

import re

import jax
import numpy as np
import pytest

from cae_jax import models
from cae_jax.models import bigan
from cae_jax.models.bigan import Layer, Sizes, Weighted, spectrally_normed
from cae_jax.types import UsageError

PAPER = {"bigan": Sizes("bigan", 1, 32, 32, 200), "alad": Sizes("alad", 3, 32, 64, 100)}


def inputs(s, n=2):
    image = jax.ShapeDtypeStruct((n, s.patch_size, s.patch_size, s.channels), np.float32)
    code = jax.ShapeDtypeStruct((n, s.latent), np.float32)
    return {
        **{"encoder": image, "generator": code, "joint": (image, code)},
        **{"images": (image, image), "codes": (code, code)},
    }


def abstract(s, name):
    """What a network gives, and its variables, as shapes."""
    network = bigan.networks(s)[name]
    return jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x), inputs(s)[name])


def kernels(s, name):
    """The shapes of its kernels, in the order of their names."""
    flat = jax.tree_util.tree_flatten_with_path(abstract(s, name)[1]["params"])[0]
    return {
        "/".join(key.key for key in path[:-1]): leaf.shape
        for path, leaf in flat
        if path[-1].key == "kernel"
    }


def drawn(rng, s, name):
    """Variables by NumPy: norms do not scale by 1, nor do they add 0."""
    return jax.tree.map(
        lambda leaf: rng.uniform(-0.5, 1, leaf.shape).astype("f") ** 2 + 0.1, abstract(s, name)[1]
    )


def test_bigans_layers():
    """MNIST's 28 pixels end in 7 x 7; 32 in 8 x 8."""
    s = PAPER["bigan"]
    assert kernels(s, "encoder") == {
        "body/conv1": (3, 3, 1, 32),
        "body/conv2": (3, 3, 32, 64),
        "body/conv3": (3, 3, 64, 128),
        "output/dense1": (8 * 8 * 128, 200),
    }
    assert kernels(s, "generator") == {
        "head/dense1": (200, 1024),
        "map": (1024, 8 * 8 * 128),
        "body/deconv1": (4, 4, 128, 64),
        "body/deconv2": (4, 4, 64, 1),
    }
    assert kernels(s, "joint") == {
        "image/conv1": (4, 4, 1, 64),
        "image/conv2": (4, 4, 64, 64),
        "code/dense1": (200, 512),
        "joint/dense1": (8 * 8 * 64 + 512, 1024),
        "output": (1024, 1),
    }
    assert set(bigan.networks(s)) == {"encoder", "generator", "joint"}
    (_, features), variables = abstract(s, "joint")
    assert features.shape == (2, 1024)
    assert set(variables) == {"params", "batch_stats"}  # no spectral norm


def test_alads_layers():
    """Pairs of images lie on channels: 6 of two RGB images."""
    s = PAPER["alad"]
    assert kernels(s, "encoder") == {
        "body/conv1": (4, 4, 3, 128),
        "body/conv2": (4, 4, 128, 256),
        "body/conv3": (4, 4, 256, 512),
        "output/dense1": (4 * 4 * 512, 100),
    }
    assert kernels(s, "generator") == {
        "map": (100, 4 * 4 * 512),
        "body/deconv1": (4, 4, 512, 256),
        "body/deconv2": (4, 4, 256, 128),
        "body/deconv3": (4, 4, 128, 3),
    }
    assert kernels(s, "joint") == {
        "image/conv1": (4, 4, 3, 128),
        "image/conv2": (4, 4, 128, 256),
        "image/conv3": (4, 4, 256, 512),
        "code/dense1": (100, 512),
        "code/dense2": (512, 512),
        "joint/dense1": (4 * 4 * 512 + 512, 1024),
        "output": (1024, 1),
    }
    assert kernels(s, "images") == {
        "body/conv1": (5, 5, 6, 64),
        "body/conv2": (5, 5, 64, 128),
        "output": (8 * 8 * 128, 1),
    }
    assert kernels(s, "codes") == {
        "body/dense1": (200, 64),
        "body/dense2": (64, 32),
        "output": (32, 1),
    }
    spectral = abstract(s, "encoder")[1]["spectral"]
    assert {k: v["u"].shape for k, v in spectral["body"].items()} == {
        **{"conv1": (128,), "conv2": (256,), "conv3": (512,)}
    }
    assert set(spectral) == {"body"}  # not of the last row
    assert "spectral" not in abstract(s, "generator")[1]
    assert abstract(s, "generator")[1]["batch_stats"]["norm"]["mean"].shape == (512,)


@pytest.mark.parametrize(
    ("variant", "patch_size", "down", "side"),
    [
        ("bigan", 16, [4, 8, 16], 4),
        ("bigan", 128, [4, 8, 16, 32, 64], 8),
        ("bigan", 512, [4, 8, 16, 32, 64, 64, 64], 8),
        ("alad", 16, [8, 16], 4),
        ("alad", 64, [8, 16, 32, 32], 4),
    ],
)
def test_other_sizes(variant, patch_size, down, side):
    """Rows like the last, twice as wide up to 512 at the paper's width; at the width 4 here, an
    eighth and a sixteenth of it."""
    s = Sizes(variant, 3, patch_size, 4, 5)
    encoder, generator = kernels(s, "encoder"), kernels(s, "generator")
    assert [v[-1] for k, v in encoder.items() if k.startswith("body")] == down
    assert encoder["output/dense1"] == (side**2 * down[-1], 5)
    strided = down[1:] if variant == "bigan" else down
    assert [v[-1] for k, v in generator.items() if k.startswith("body")] == [*strided[-2::-1], 3]
    shapes = {name: abstract(s, name)[0] for name in bigan.networks(s)}
    assert shapes["generator"].shape == (2, patch_size, patch_size, 3)
    assert shapes["encoder"].shape == (2, 5)
    if variant == "bigan":
        assert {v[-1] for k, v in kernels(s, "joint").items() if "image" in k} == {8}
    else:
        of_pairs = {16: 4 * 4 * 8, 64: 8 * 8 * 16}[patch_size]
        assert shapes["images"].features.shape == (2, of_pairs)


@pytest.mark.parametrize("patch_size", [0, 8, 24, 63])
def test_other_patch_sizes_are_refused(patch_size):
    message = re.escape(f"--patch_size={patch_size}: bidirectional GANs take a power of two, 16")
    with pytest.raises(UsageError, match=message):
        bigan.halvings(patch_size, 8)


def test_the_spectral_norm_by_numpy(rng):
    """One power iteration, and where many of them end, by numpy.linalg.svd."""
    kernel = rng.standard_normal((3, 2, 5, 7)).astype("f")
    matrix, u = kernel.reshape(-1, 7).astype(float), rng.standard_normal(7)
    v = matrix @ u
    v /= np.sqrt((v**2).sum())
    after = v @ matrix
    after /= np.sqrt((after**2).sum())
    normed, found = spectrally_normed(kernel, u.astype("f"))
    np.testing.assert_allclose(found, after, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(normed, kernel / (v @ matrix @ after), rtol=1e-4)
    for _ in range(60):
        normed, found = spectrally_normed(kernel, found)
    _, singular, right = np.linalg.svd(matrix)
    np.testing.assert_allclose(normed, kernel / singular[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(abs(found @ right[0]), 1, rtol=1e-3)
    assert np.linalg.svd(np.asarray(normed).reshape(-1, 7))[1][0] == pytest.approx(1, rel=1e-3)


def test_its_gradient_holds_u_and_v_fixed(rng):
    """d (w / s) of s = v w u, by hand: (g - <g, w> v u / s) / s."""
    w, u = rng.standard_normal((4, 3)), rng.standard_normal(3)
    g = rng.standard_normal((4, 3))
    v = w @ u / np.linalg.norm(w @ u)
    after = v @ w / np.linalg.norm(v @ w)
    s = v @ w @ after
    expected = (g - (g * w).sum() / s * np.outer(v, after)) / s
    found = jax.grad(lambda w: (g.astype("f") * spectrally_normed(w, u.astype("f"))[0]).sum())(
        w.astype("f")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_vector_moves_in_training_alone(rng):
    x, row = rng.random((2, 3), np.float32), Weighted(Layer("dense", 4), 4, 0.5, True)
    variables = row.init(jax.random.key(0), x, False)
    again, moved = row.apply(variables, x, True, mutable=["spectral"])
    np.testing.assert_array_equal(row.apply(variables, x, False), again)
    _, expected = spectrally_normed(variables["params"]["kernel"], variables["spectral"]["u"])
    np.testing.assert_allclose(moved["spectral"]["u"], expected, rtol=1e-6)
    assert not np.allclose(expected, variables["spectral"]["u"])


def halved(x, layer):
    """A convolution of stride 2 with zeros around, [H, W, C] -> [H / 2, W / 2, F], point by
    point."""
    kernel, bias = layer["kernel"], layer["bias"]
    k, side = len(kernel), len(x) // 2
    before = (k - 2) // 2
    x = np.pad(x, ((before, k), (before, k), (0, 0)))
    out = np.empty((side, side, len(bias)))
    for i in range(side):
        for j in range(side):
            window = x[2 * i : 2 * i + k, 2 * j : 2 * j + k, :, None]
            out[i, j] = (window * kernel).sum(axis=(0, 1, 2)) + bias
    return out


def leaky(x, slope):
    return np.where(x > 0, x, slope * x)


def test_the_joint_discriminator_by_numpy(rng):
    s = Sizes("bigan", 1, 16, 1, 3)
    variables = drawn(rng, s, "joint")
    x, z = rng.standard_normal((2, 16, 16, 1)).astype("f"), rng.standard_normal((2, 3)).astype("f")
    found = bigan.networks(s)["joint"].apply(variables, (x, z))
    p, stats = variables["params"], variables["batch_stats"]["image"]["norm2"]
    for n in range(2):
        y = leaky(halved(x[n].astype(float), p["image"]["conv1"]), 0.1)
        y = (halved(y, p["image"]["conv2"]) - stats["mean"]) / np.sqrt(stats["var"] + 1e-3)
        y = leaky(y * p["image"]["norm2"]["scale"] + p["image"]["norm2"]["bias"], 0.1)
        of_z = leaky(z[n] @ p["code"]["dense1"]["kernel"] + p["code"]["dense1"]["bias"], 0.1)
        both = np.concatenate([y.reshape(-1), of_z]) @ p["joint"]["dense1"]["kernel"]
        features = leaky(both + p["joint"]["dense1"]["bias"], 0.1)
        np.testing.assert_allclose(found.features[n], features, rtol=1e-3, atol=1e-4)
        logit = features @ p["output"]["kernel"][:, 0] + p["output"]["bias"][0]
        np.testing.assert_allclose(found.logits[n], logit, rtol=1e-3)


def test_pairs_of_images_lie_on_channels(rng):
    """A point of the features sees both images where it lies: one below the other, as in the
    authors' code, the first point would not see the second image."""
    s = Sizes("alad", 1, 16, 2, 3)
    variables = drawn(rng, s, "images")
    x, y = rng.standard_normal((2, 2, 16, 16, 1)).astype("f")
    network = bigan.networks(s)["images"]
    before = np.asarray(network.apply(variables, (x, y)).features).reshape(2, 4, 4, 4)
    y[:, 0, 0] += 1
    after = np.asarray(network.apply(variables, (x, y)).features).reshape(2, 4, 4, 4)
    moved = np.abs(after - before).max(axis=(0, 3)) > 1e-6
    assert moved[0, 0]
    assert not moved[2:].any()
    assert not moved[:, 2:].any()


def test_these_are_networks_of_a_method_and_no_autoencoder():
    assert "bigan" not in models.names()
