"""A model is replaced when its folder is, and what is wrong with a new one harms nothing."""

import asyncio
import re
import threading

import fake_service
import pytest
from fake_service import client, parts, png

from cae_jax.serving.service.app import make
from cae_jax.serving.service.models import Models
from cae_jax.serving.service.options import Options
from cae_jax.types import CaeError, DataError


def load(folder):
    version = (folder / "model.json").read_text()
    if version == "bad":
        raise DataError(f"{folder}: SHA256SUMS differs")
    return fake_service.detector(version=version)


@pytest.fixture
def folder(tmp_path):
    """What experiments.export might have written."""
    made = tmp_path / "export"
    made.mkdir()
    (made / "model.json").write_text("1")
    return made


@pytest.fixture
def models(folder):
    made = Models({"fake": folder}, load, Options())
    made.load()
    yield made
    made.close()


def replace(folder, version):
    """A new folder in the place of the old one."""
    new = folder.with_name("new")
    new.mkdir()
    (new / "model.json").write_text(version)
    folder.rename(folder.with_name(f"before {version}"))
    new.rename(folder)


def version(models):
    return models.get("fake").detector.model.version


def test_a_replaced_folder_is_loaded_once_it_has_settled(models, folder):
    models.look()
    models.look()
    assert not models.reloads
    first = models.get("fake")
    replace(folder, "2")
    models.look()
    assert version(models) == "1"  # files may still be coming
    models.look()
    assert version(models) == "2"
    assert models.reloads == {("fake", "ok"): 1}
    first.worker.join()  # nothing was under way on it
    models.look()
    assert models.reloads == {("fake", "ok"): 1}


def test_a_file_that_is_rewritten_in_place_counts_too(models, folder):
    models.look()
    (folder / "model.json").write_text("3 and longer")
    for _ in range(2):
        models.look()
    assert version(models) == "3 and longer"


def test_a_bad_folder_keeps_the_old_model(models, folder, capsys):
    replace(folder, "bad")
    for _ in range(4):
        models.look()
    assert version(models) == "1"
    assert models.reloads == {("fake", "failed"): 1}  # and is not tried again and again
    said = capsys.readouterr().err
    assert len(re.findall("the old one stays, the new one cannot be loaded: .*SHA256", said)) == 1
    replace(folder, "4")
    for _ in range(2):
        models.look()
    assert version(models) == "4"


def test_a_folder_that_is_gone_keeps_the_old_model(models, folder):
    folder.rename(folder.with_name("away"))
    for _ in range(3):
        models.look()
    assert version(models) == "1"
    assert not models.reloads


def test_requests_under_way_end_on_the_old_model(models, folder):
    app = make(models, Options(), None)
    with models.seats("fake", 1) as (old, seats):
        replace(folder, "5")
        for _ in range(2):
            models.look()
        (answer,) = asyncio.run(ask(app, "/predict"))
        assert answer.json()["model"]["version"] == "5"
        assert old.detector.model.version == "1"
        assert old.worker._thread.is_alive()
        pixels = old.detector.pixels(png(204))
        assert seats.bring(pixels, "x").result(30).distance == pytest.approx(80)
    old.worker.join()
    found, other, metrics = asyncio.run(
        ask(app, "/v2/models/fake/versions/5", "/v2/models/fake/versions/1", "/metrics")
    )
    assert found.json()["versions"] == ["5"]
    assert other.status_code == 404
    assert 'model_reload_total{model="fake",result="ok"} 1.0' in metrics.text


async def ask(app, *paths):
    async with client(app) as asked:
        return [
            await (
                asked.post(path, files=parts(png(51))) if path == "/predict" else asked.get(path)
            )
            for path in paths
        ]


def test_until_all_models_are_loaded_it_is_not_ready(folder):
    begun, opened = threading.Event(), threading.Event()

    def slowly(folder):
        begun.set()
        assert opened.wait(30)
        return load(folder)

    models = Models({"fake": folder}, slowly, Options())
    app = make(models, Options(), None)
    failures = []
    models.start(failures.append)
    assert begun.wait(30)
    health, *others = asyncio.run(
        ask(app, "/health", "/ready", "/v2/health/ready", "/predict", "/v2/models/fake/ready")
    )
    assert health.status_code == 200
    assert [each.status_code for each in others] == [503] * 4
    assert others[2].json() == {"error": "model 'fake' is being loaded"}
    opened.set()
    models.close()
    ready, metrics = asyncio.run(ask(app, "/ready", "/metrics"))
    assert ready.json() == {"ready": True, "models": ["fake"]}
    assert 'model_ready{model="fake"} 1.0' in metrics.text
    assert not failures


def test_a_model_that_cannot_be_loaded_at_the_start_is_told(folder):
    (folder / "model.json").write_text("bad")
    told = threading.Event()
    failures: list[CaeError] = []

    def failed(error):
        failures.append(error)
        told.set()

    models = Models({"fake": folder}, load, Options())
    models.start(failed)
    assert told.wait(30)
    assert "SHA256SUMS differs" in str(failures[0])
    models.close()
