"""Where ONNX Runtime for browsers comes from, and what is refused."""

import base64
import hashlib
import io
import tarfile

import pytest
from static_files import static

from cae_jax.serving import onnxruntime_web
from cae_jax.types import DataError, UsageError

CONTENTS = {name: name.encode() for name in onnxruntime_web.FILES}


def package():
    """A .tgz as npm packs it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in CONTENTS.items():
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without cache and settings, and a package whose hashes are the ones wanted."""
    content = package()
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    monkeypatch.setattr(onnxruntime_web, "INTEGRITY", digest)
    hashes = {name: hashlib.sha256(each).hexdigest() for name, each in CONTENTS.items()}
    monkeypatch.setattr(onnxruntime_web, "FILES", hashes)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    (tmp_path / "home").mkdir()
    at = tmp_path / "npm" / "onnxruntime-web" / "-"
    at.mkdir(parents=True)
    (at / f"onnxruntime-web-{onnxruntime_web.VERSION}.tgz").write_bytes(content)
    return tmp_path


def test_from_the_registry_once_then_from_the_cache(home, monkeypatch):
    with static(home / "npm") as url:
        (home / "home" / ".npmrc").write_text(f"fund=false\nregistry = {url}\n")
        assert onnxruntime_web.registry() == url
        assert onnxruntime_web.files() == CONTENTS
    assert onnxruntime_web.files() == CONTENTS  # the registry is gone
    (cached,) = (home / "cache" / "cae_jax").iterdir()
    (cached / next(iter(CONTENTS))).write_bytes(b"half a file")
    with pytest.raises(DataError, match=r"-1\.30\.0\.tgz: cannot be had: .*--onnxruntime_web=FILE"):
        onnxruntime_web.files()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/npm/")  # goes before the file
    with pytest.raises(DataError, match=r"^http://127\.0\.0\.1:9/npm/onnxruntime-web/-/") as caught:
        onnxruntime_web.files()
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "file:///etc")
    with pytest.raises(DataError, match="no http address"):
        onnxruntime_web.files()


def test_another_file_is_refused(home, monkeypatch):
    with static(home / "npm") as url:
        monkeypatch.setenv("npm_config_registry", url)
        monkeypatch.setattr(onnxruntime_web, "INTEGRITY", "another")
        with pytest.raises(DataError, match=r"not the file that npm has \(\d+ bytes\)"):
            onnxruntime_web.files()
    assert not (home / "cache").exists()


def test_a_copy_is_named(home):
    file = home / "copy.tgz"
    file.write_bytes(package())
    assert onnxruntime_web.files(file) == CONTENTS
    file.write_bytes(package()[:-1])
    with pytest.raises(UsageError, match=r"copy\.tgz: not the package of onnxruntime-web 1\.30\.0"):
        onnxruntime_web.files(file)
    with pytest.raises(UsageError, match=r"nowhere: cannot be read"):
        onnxruntime_web.files(home / "nowhere")
    folder = home / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (folder / "dist" / name).write_bytes(content)
    assert onnxruntime_web.files(folder) == onnxruntime_web.files(folder / "dist") == CONTENTS
    name = next(iter(CONTENTS))
    (folder / "dist" / name).write_bytes(b"other")
    with pytest.raises(UsageError, match=f"its {name} is not that of version 1"):
        onnxruntime_web.files(folder)
    (folder / "dist" / name).unlink()
    with pytest.raises(UsageError, match=f"--onnxruntime_web=.*: no {name} in it"):
        onnxruntime_web.files(folder)
