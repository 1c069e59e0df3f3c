"""Files of an exported folder that are missing, empty, cut or another's: each is called by its name
and by its true fault, also where the sums were made again."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cae_jax
from cae_jax.serving import exported
from cae_jax.types import DataError, UsageError

MISSING = "cannot be read: No such file"
BATCH, WEIGHTS, ONNX = "stablehlo/batch.bin", "stablehlo/weights.npz", "onnx/model.onnx"


def summed(folder):
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != exported.SUMS]
    lines = [f"{exported.digest(p)}  {p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / exported.SUMS).write_text("".join(lines))


@pytest.fixture
def folder(tmp_path):
    """Of a program that adds a weight, and of what is no ONNX file."""
    (tmp_path / "stablehlo").mkdir()
    (tmp_path / "onnx").mkdir()
    one = jax.ShapeDtypeStruct((), jnp.float32)
    program = jax.export.export(jax.jit(lambda weights, x: weights["w"] + x))({"w": one}, one)
    (tmp_path / BATCH).write_bytes(program.serialize())
    np.savez(tmp_path / WEIGHTS, w=np.float32(2))
    for name in ("model", "batch"):
        (tmp_path / f"onnx/{name}.onnx").write_bytes(bytes(range(100)))
    (tmp_path / exported.FACTS).write_text(json.dumps({"form": exported.FORM}))
    summed(tmp_path)
    return tmp_path


def said(load, *args):
    with pytest.raises(DataError) as caught:
        load(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "how", "cause"),
    [
        (BATCH, "missing", MISSING),
        (BATCH, "half", f"is damaged: jax {jax.__version__}, which wrote it, cannot read it"),
        (BATCH, "other", "written by jax 0.4.1, is not read by jax"),
        (WEIGHTS, "missing", MISSING),
        (WEIGHTS, "empty", "is no archive of weights"),
        (WEIGHTS, "half", "is no archive of weights"),
    ],
)
def test_what_jax_cannot_read(folder, name, how, cause):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(content[: len(content) // 2 if how != "empty" else 0])
    wrote = "0.4.1" if how == "other" else jax.__version__
    card = {"stablehlo": {"jax": wrote}}
    assert said(exported._jax, folder, card).startswith(f"{path}: {cause}")


def test_what_onnxruntime_cannot_read(folder):
    found = said(exported._onnxruntime, folder, {})
    assert found.startswith(f"{folder / ONNX}: is not read by onnxruntime (")


@pytest.mark.parametrize("content", ["", "hello", '{"form": 1', "[]", "{}", "3"])
def test_facts_that_are_none(folder, content):
    path = folder / exported.FACTS
    path.write_text(content)
    summed(folder)
    assert said(cae_jax.load, folder) == f"{path}: is not what experiments.export writes"


def test_facts_that_are_missing_or_of_another_time(folder):
    path = folder / exported.FACTS
    path.write_text('{"form": 99}')
    summed(folder)
    assert said(cae_jax.load, folder) == f"{path}: of form 99, this version reads {exported.FORM}"
    path.unlink()
    assert said(cae_jax.load, folder).startswith(f"{path}: {MISSING}")
    summed(folder)
    assert said(cae_jax.load, folder) == f"{path}: is missing"


@pytest.mark.parametrize(
    ("sums", "cause"),
    [("", "is empty"), ("hello\n", "is no list of sums: 'hello'"), ("ab  mod", "is cut short")],
)
def test_sums_that_are_none(folder, sums, cause):
    (folder / exported.SUMS).write_text(sums)
    assert said(cae_jax.load, folder).startswith(f"{folder / exported.SUMS}: {cause}")


def test_a_mask_that_is_not_listed(folder):
    (folder / "roi.png").write_bytes(b"a mask")
    assert re.search("SHA256SUMS: does not list roi.png", said(cae_jax.load, folder))


def test_a_runtime_that_is_there_and_does_not_load_is_no_missing_one(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('DLL load failed')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(UsageError, match=r"cannot be used: DLL load failed$"):
        exported._onnxruntime(tmp_path, {})
