"""Where images lie, and as what, changes no number: a run's scores are the same bytes."""

import pytest
import small_runs

from cae_jax import files
from cae_jax.data import images
from cae_jax.runs import job
from cae_jax.runs.config import configure
from cae_jax.types import divided


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("held")
    with small_runs.images_in(root, "tablet"):
        yield root


def config_of(world, workdir, method, **flags):
    if method == "autoencoder":
        return small_runs.config_of(world, workdir, **flags)
    flags |= {"data_dir": str(world / "in"), "workdir": str(world / workdir), "image_size": 64}
    return configure(dataset="folder", category="tablet", method=method, **flags)


@pytest.mark.parametrize("method", ["autoencoder", "variation_model"])
def test_scores_are_the_same_bytes(world, method, monkeypatch):
    sizes, mapped = [], files._mapped
    monkeypatch.setattr(files, "_mapped", lambda size: sizes.append(size) or mapped(size))

    def scores(held):
        config = config_of(world, f"{method}_{held}_{len(sizes)}", method, images_in=held)
        job.run(config)
        return (small_runs.folder_of(config) / "scores.csv").read_bytes()

    expected = scores("memory")
    assert not sizes
    assert scores("disk") == expected
    assert sizes[:2] == [10 * 64**2, 6 * 64**2]  # a byte a pixel
    put = images._Stack.put
    monkeypatch.setattr(images._Stack, "put", lambda *a: put(*a[:2], divided(*a[2:]), 1))
    assert scores("disk") == expected
    assert 10 * 64**2 * 4 in sizes
