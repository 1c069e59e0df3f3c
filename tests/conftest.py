"""What several test files share: a seeded generator and an autoencoder that compiles at once.

No compilation cache is shared: JAX writes its entries in place, so that one worker could read what
another has half written.
"""

import contextlib
import ctypes
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

# Compiling is most of what tests do: without LLVM's expensive passes, by XLA's older emitter of
# loops and in one module, the same programs take a fifth of the time. In the environment, for what
# tests start must compute the same bits; runs/test_main_path.py runs what users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

from cae_jax.models.layers.table import ConvTranspose
from cae_jax.types import Reconstruction, State, Steps

# The same examples in every run, and nothing kept between runs: a red test stays red.
settings.register_profile("same", derandomize=True, database=None, deadline=None, print_blob=False)
settings.load_profile("same")


# Folders and files whose tests compile little: `pytest -m quick`.
QUICK = (
    *("evaluation", "reports", "models/layers/test_table.py", "models/test_models.py"),
    *(
        "data/test_data.py",
        "data/test_images.py",
        "data/test_pictures.py",
        "data/test_from_array.py",
    ),
    *("methods/test_losses.py", "methods/test_variation_model.py", "scoring/test_patches.py"),
    *("runs/test_config.py", "runs/machine/test_progress.py", "training/test_fit.py"),
    *("test_files.py", "test_house.py", "test_options.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the quick tests."""
    root = pathlib.Path(__file__).parent
    for item in items:
        path = item.path.relative_to(root)
        if {path.as_posix(), *(parent.as_posix() for parent in path.parents)} & set(QUICK):
            item.add_marker(pytest.mark.quick)


class Tiny(nn.Module):
    channels: int = 1
    patch_size: int = 8

    @nn.compact
    def __call__(self, x, train=False):
        code = nn.leaky_relu(nn.Conv(4, (3, 3), (2, 2), name="encoder")(x), 0.2)
        return Reconstruction(
            ConvTranspose(self.channels, (4, 4), (2, 2), name="decoder")(code), {}
        )


_PAGE, _MUCH = os.sysconf("SC_PAGE_SIZE"), 3 * 2**30


@pytest.fixture(scope="module", autouse=True)
def _programs():
    """What was compiled is let go after a file when it has come to much: all of it together does
    not fit into the memory of a small machine."""
    yield
    at = pathlib.Path("/proc/self/statm")
    if at.exists() and int(at.read_text().split()[1]) * _PAGE > _MUCH:
        jax.clear_caches()
        with contextlib.suppress(OSError, AttributeError):  # no glibc
            ctypes.CDLL(None).malloc_trim(0)  # or it would keep what was let go


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_model() -> nn.Module:
    """8x8 gray patches, one convolution and one transposed convolution."""
    return Tiny()


@pytest.fixture(scope="session")
def tiny_state() -> Callable[[Steps, int], State]:
    """(steps of tiny_model, seed) -> a fresh state; drawn by NumPy, it compiles nothing."""

    def draw(learn: Steps, seed: int) -> State:
        rng, key = np.random.default_rng(seed), jax.random.key(seed)
        state = jax.eval_shape(learn.init, key)

        def weights(leaf: jax.ShapeDtypeStruct) -> jax.Array:
            return jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)

        variables = jax.tree.map(weights, state.variables)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state.opt_state)
        return State(jnp.zeros((), jnp.int32), key, variables, zeros)

    return draw


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, one for all tests of a file, see `browser.chromium`."""
    from browser import chromium  # Playwright is slow to import

    with chromium() as started:
        yield started
