"""ONNX Runtime's build for browsers: from npm's registry, checked, and kept in the user's cache.

Neither npm nor Node is needed. The version is pinned, and so is what its files must be.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import re
import tarfile
import urllib.request
from pathlib import Path

from cae_jax.files import write_whole
from cae_jax.types import DataError, UsageError

VERSION = "1.30.0"
INTEGRITY = (  # of the package, as npm states it: its SHA-512 in base64
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
# What runs a model on a CPU, from the package's folder dist, with their SHA-256.
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
_REGISTRY = "https://registry.npmjs.org"  # npm's own default
_FLAG = "--onnxruntime_web"
_LARGEST, _SECONDS = 2**27, 60  # bytes of an answer, and without any


def files(given: Path | None = None) -> dict[str, bytes]:
    """Returns the content of FILES by name.

    Args:
      given: the package as a .tgz file, or a folder with the files, its dist or node_modules'
        onnxruntime-web; None asks the user's cache, then the registry that npm is configured for:
        npm_config_registry in the environment, else ~/.npmrc, else npm's default.

    Raises:
      UsageError: `given` is not there, or is another version.
      DataError: the registry cannot be reached, or what it has is another file.
    """
    if given is None:
        return _cached()
    if given.is_dir():
        return _of_folder(given)
    try:
        package = given.read_bytes()
    except OSError as error:
        raise UsageError(f"{_FLAG}={given}: cannot be read: {error.strerror}") from error
    if not _is_package(package):
        raise UsageError(f"{_FLAG}={given}: not the package of onnxruntime-web {VERSION}")
    return _unpacked(package)


def registry() -> str:
    """Returns the address of the registry that npm is configured for."""
    for name, value in os.environ.items():
        if name.lower() == "npm_config_registry" and value:
            return value
    try:
        lines = (Path.home() / ".npmrc").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError, RuntimeError):  # or no home
        return _REGISTRY
    found = [re.fullmatch(r"\s*registry\s*=\s*\"?([^\"\s]+)\"?\s*", line) for line in lines]
    return next((match[1] for match in reversed(found) if match), _REGISTRY)


def _cached() -> dict[str, bytes]:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base) / "cae_jax" / f"onnxruntime-web-{VERSION}"
    try:
        return _of_folder(folder)
    except UsageError:  # not there, or not whole
        found = _unpacked(_downloaded())
    if not folder.is_absolute():  # there is no home
        return found
    with contextlib.suppress(OSError, DataError):  # where it cannot be kept it is fetched again
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in found.items():
            write_whole(folder / name, content)
    return found


def _downloaded() -> bytes:
    address = f"{registry().rstrip('/')}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    other = f"{_FLAG}=FILE.tgz or FOLDER takes it from there"
    try:
        if not address.startswith(("https://", "http://")):
            raise ValueError("no http address")
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            package = answer.read(_LARGEST)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{address}: cannot be had: {reason}; {other}") from error
    if not _is_package(package):
        raise DataError(f"{address}: not the file that npm has ({len(package)} bytes); {other}")
    return package


def _is_package(content: bytes) -> bool:
    return base64.b64encode(hashlib.sha512(content).digest()).decode() == INTEGRITY


def _unpacked(package: bytes) -> dict[str, bytes]:
    found = {}
    # as a stream: to go back in it would mean to unpack it from its beginning
    with tarfile.open(fileobj=io.BytesIO(package), mode="r|gz") as archive:
        for member in archive:
            name = member.name.removeprefix("package/dist/")
            if name in FILES and (file := archive.extractfile(member)) is not None:
                found[name] = file.read()
    return found


def _of_folder(folder: Path) -> dict[str, bytes]:
    found = {}
    for name, digest in FILES.items():
        at = next((p for p in (folder / name, folder / "dist" / name) if p.is_file()), None)
        if at is None:
            raise UsageError(f"{_FLAG}={folder}: no {name} in it")
        found[name] = at.read_bytes()
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise UsageError(f"{_FLAG}={folder}: its {name} is not that of version {VERSION}")
    return found
