"""Tables in Parquet and the places of images: parts, whose job it is, and URIs."""

import io
import os

import fsspec
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from cae_jax.serving.cluster import job, places, table
from cae_jax.serving.cluster.places import Listed
from cae_jax.types import DataError, UsageError

JOB = {"engine": "ray", "weights": "a"}


def rows_of(*rows):
    names = ("path", "distance", "error")
    return pyarrow.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows],
                                     table.SCHEMA)  # fmt: skip


@pytest.fixture(params=["folder", "bucket"])
def where(request, tmp_path):
    """A folder of this machine and one of another store, neither of which is there yet."""
    if request.param == "folder":
        yield str(tmp_path / "out/deep")
        return
    yield "memory://bucket/out"
    fsspec.filesystem("memory").rm("/", recursive=True)


def test_parts_become_one_sorted_table_in_which_the_last_row_counts(where):
    output = table.at(where)
    table.claim(output, JOB, overwrite=False)
    table.add(output, [rows_of(("b", 1.0, None)), rows_of(("c", None, "is empty"))])
    table.add(output, [rows_of(("a/é", 2.0, None), ("c", 3.0, None))])
    table.claim(output, JOB, overwrite=False)  # another start
    wanted = [("a/é", 2.0, None), ("b", 1.0, None), ("c", 3.0, None)]
    assert table.rows(output) == table.finish(output) == rows_of(*wanted)
    table.add(output, [rows_of(("b", 4.0, None))])
    table.finish(output)
    system, folder = fsspec.core.url_to_fs(where)
    names = [path.rpartition("/")[2] for path in system.ls(folder, detail=False)]
    assert sorted(names) == ["run.json", "scores.parquet"]
    content = pyarrow.BufferReader(system.cat(f"{folder}/scores.parquet"))
    found = parquet.read_table(content)
    assert found.column("distance").to_pylist() == [2.0, 4.0, 3.0]


def test_a_folder_is_one_jobs(where):
    output = table.at(where)
    table.claim(output, JOB, overwrite=False)
    table.add(output, [rows_of(("a", 1.0, None))])
    with pytest.raises(UsageError, match="holds scores with weights=a, now b: take another folder"):
        table.claim(output, JOB | {"weights": "b"}, overwrite=False)
    table.claim(output, JOB | {"weights": "b"}, overwrite=True)
    assert len(table.rows(output)) == 0
    table.add(output, [rows_of(("a", 1.0, None))])
    if isinstance(output.at, places.Store):
        output.at.remove("run.json")
    else:
        (output.at / "run.json").unlink()
    with pytest.raises(
        UsageError, match=r"scores.part-000000.parquet lies in it without a run.jso"
    ):
        table.claim(output, JOB, overwrite=True)


def test_a_torn_table_is_named(tmp_path):
    (tmp_path / "scores.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"scores.parquet is no table of such scores"):
        table.rows(table.at(str(tmp_path)))


def test_what_is_scored_anew():
    rows = pyarrow.Table.from_pylist(
        [
            {"path": "a", "bytes": 1, "modified": 5},
            {"path": "b", "bytes": 1, "modified": 5},
            {"path": "c", "bytes": 1, "modified": 5, "error": "is empty"},
            {"path": "\\xff.png", "bytes": 1, "modified": 5},
        ],
        table.SCHEMA,
    )
    same = [Listed(path, 1, 5) for path in ("a", "c", "new", os.fsdecode(b"\xff.png"))]
    left = job._left(rows, [*same, Listed("b", 1, 6)])
    assert [each.path for each in left] == ["c", "new", "b"]


def test_a_bucket_is_listed_and_read_as_a_folder_is(tmp_path):
    system, files = fsspec.filesystem("memory"), {}
    for name in ("b.PNG", "a/x.jpg", "a/.hidden.png", ".tmp/y.png", "notes.txt"):
        array = np.zeros((4, 4), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "png")
        files[name] = stream.getvalue()
        system.pipe(f"/parts/line/{name}", files[name])
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(files[name])
    store = places.opened("memory://parts/line/", "images")
    root, found = places.images_in(store, "memory://parts/line/", recursive=True)
    assert root == "memory://parts/line/"
    assert [each.path for each in found] == ["a/x.jpg", "b.PNG"]
    assert [each.bytes for each in found] == [len(files["a/x.jpg"]), len(files["b.PNG"])]
    assert store.read("a/x.jpg") == files["a/x.jpg"]
    _, flat = places.images_in(store, "memory://parts/line/", recursive=False)
    assert [each.path for each in flat] == ["b.PNG"]
    here, listed = job.listed_in(f"file://{tmp_path}", True, None)
    assert here == str(tmp_path)
    assert [each[:2] for each in listed] == [each[:2] for each in found]
    one = places.opened("memory://parts/line/b.PNG", "images")
    root, found = places.images_in(one, "memory://parts/line/b.PNG", recursive=True)
    assert (root, [each.path for each in found]) == ("memory://parts/line", ["b.PNG"])
    system.rm("/", recursive=True)


@pytest.mark.parametrize(
    ("uri", "kind", "words"),
    [
        ("memory://nothing/here", DataError, "--images=memory://nothing/here: there is no such"),
        ("/nothing/here", DataError, "--images=/nothing/here: there is no such folder or image"),
        ("nowhere://a/b", UsageError, "--images=nowhere://a/b: cannot be opened: Protocol not"),
    ],
)
def test_a_place_that_is_none_is_named(uri, kind, words):
    with pytest.raises(kind) as caught:
        job.listed_in(uri, True, None)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bucket_without_an_image(tmp_path):
    fsspec.filesystem("memory").pipe("/parts/notes.txt", b"x")
    with pytest.raises(DataError, match=r"memory://parts: no image in it; suffixes read: .avif"):
        job.listed_in("memory://parts", True, None)
    fsspec.filesystem("memory").rm("/", recursive=True)


def test_a_color_scale_of_messages_is_brief(capsys):
    print("\x1b[33m(raylet)\x1b[0m A worker died" + 500 * "." + "\nand\nmore", file=job._Brief())
    out, err = capsys.readouterr()
    assert (out, err) == ("", "(raylet) A worker died" + 138 * "." + "\n")


@pytest.mark.parametrize(
    ("where", "file", "place"),
    [
        ("out/", "out/scores.parquet", "out/"),
        ("s3://me:word@b/out", "s3://b/out/scores.parquet", "s3://b/out"),
        ("s3://b/o?region=x&secret_key=y", "s3://b/o/scores.parquet?region=x", "s3://b/o?region=x"),
        ("abfs://b/o?sv=1&sig=y", "abfs://b/o/scores.parquet?sv=1", "abfs://b/o?sv=1"),
        ("s3://b/a@b", "s3://b/a@b/scores.parquet", "s3://b/a@b"),
    ],
)
def test_a_key_in_a_uri_is_not_shown(where, file, place):
    assert (places.shown(where, "scores.parquet"), places.shown(where)) == (file, place)
