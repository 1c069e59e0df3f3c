"""Tables of images in the forms that people and programs write."""

import json
import unicodedata

import layout_trees as trees
import pytest
from layout_trees import judged, split_of

from cae_jax.data import layouts
from cae_jax.data.layouts.found import Names
from cae_jax.types import DataError, UsageError

ROWS = [
    ("a/0.png", "good", "", "train"),
    ("a/1.png", "good", "", "train"),
    ("a/2.png", "good", "", "test"),
    ("b/3.png", "dent", "m/3.png", "test"),
]
HEAD = ("path", "label", "mask", "split")
WANTED = {"a/2.png": ("good", []), "b/3.png": ("dent", [3])}


@pytest.fixture
def root(tmp_path):
    return trees.write(tmp_path / "set", "a/0.png", "a/1.png", "a/2.png", "b/3.png", "=m/3.png")


def text(head=HEAD, separator=",", of=lambda row: row, end="\n"):
    return "".join(separator.join(row) + end for row in (head, *map(of, ROWS)))


def elsewhere(before, slash):
    """Rows whose paths begin with something that is not here."""
    return lambda row: tuple(
        before + each.replace("/", slash) if "." in each else each for each in row
    )


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("t.csv", text(("Image Path", "Class-Name", "Mask Path", "Set"), end="\r\n"), "utf-8-sig"),
        ("t.csv", text(separator="\t"), "utf-16"),
        ("t.tsv", text(separator="\t"), "utf-8"),
        ("t.csv", "sep=;\r\n" + text(separator=";", end="\r\n"), "utf-8-sig"),
        ("t.csv", "# by hand\n\n" + text(separator="|"), "utf-8"),
        ("t.csv", text(separator=", ", of=lambda r: (*r[:2], r[2] or "NaN", r[3])), "utf-8"),
        ("t.csv", text(), "utf-16-le"),
        ("t.csv", text() + ",,,\n , ,,\n", "utf-8"),
        ("t.csv", text(("image_id", "quality", "mask_id", "stage")), "utf-8"),
        ("t.csv", text(of=elsewhere("", "\\")), "utf-8"),
        ("t.csv", text(of=elsewhere("D:\\data\\set\\", "\\")), "utf-8"),
        ("t.csv", text(of=elsewhere("/home/x/y/", "/")), "utf-8"),
        ("t.csv", text(of=elsewhere("set/", "/")), "utf-8"),
        ("t.csv", text(of=elsewhere("./", "/")).replace(".png", ".PNG"), "utf-8"),
        ("t.json", "\n " + json.dumps([dict(zip(HEAD, r, strict=True)) for r in ROWS]), "utf-8"),
        ("t.jsonl", "\n".join(json.dumps(dict(zip(HEAD, r, strict=True))) for r in ROWS), "utf-8"),
        (
            "t.json",
            json.dumps(
                {part: [dict(zip(HEAD[:3], row, strict=False)) for row in ROWS if row[3] == part]
                 for part in ("train", "test")}
            ),
            "utf-8-sig",
        ),
    ],
)  # fmt: skip
def test_a_table_in_any_form(root, name, content, encoding):
    (root / name).write_bytes(content.encode(encoding))
    split = split_of(root)
    assert (split.layout, split.train_paths) == ("listed", ("a/0.png", "a/1.png"))
    assert judged(split) == WANTED
    assert split.left_out == ()


@pytest.mark.parametrize(
    ("column", "good", "bad", "name", "kind"),
    [
        ("is_anomaly", "False", "True", "", "defect"),
        ("is_good", "yes", "no", "", "defect"),
        ("label_index", "0", "1", "", "defect"),
        ("label", "1", "-1", "1", "-1"),
        ("label", "fine", "0", "fine", "0"),
        ("defect_type", "OK", "Kratzer \u00fc", "", "Kratzer \u00fc"),
    ],
)
def test_what_a_column_says(root, column, good, bad, name, kind):
    said = {"good": good, "dent": bad}
    head = (*HEAD[:1], column, *HEAD[2:])
    content = text(head, of=lambda row: (row[0], said[row[1]], *row[2:]))
    (root / "t.csv").write_bytes(content.encode("cp1252"))
    assert judged(split_of(root, good_name=name))["b/3.png"] == (kind, [3])
    if name:
        with pytest.raises(DataError, match=f"labels are {good}, {bad}: --good_name=NAME"):
            layouts.find(root, Names(good_name="other"))


@pytest.mark.parametrize("none", ["", "none", "good"])
@pytest.mark.parametrize("column", ["label", "anomaly"])
def test_one_column_says_whether_and_another_one_which(root, column, none):
    head = ("path", column, "defect_type", "mask", "split")
    rows = [(p, *(("0", none) if k == "good" else ("1", k)), m, s) for p, k, m, s in ROWS]
    (root / "t.csv").write_text("\n".join(map(",".join, (head, *rows))))
    assert judged(split_of(root)) == WANTED


def test_a_table_for_each_part(root):
    for part in ("train", "test"):
        rows = [row[:3] for row in ROWS if row[3] == part]
        (root / f"{part}.csv").write_text("\n".join(map(",".join, [HEAD[:3], *rows])))
    split = split_of(root)
    assert (len(split.train), judged(split), split.left_out) == (2, WANTED, ())
    (root / "train.csv").write_text("path,label\na/0.png,good\na/1.png,\n")
    with pytest.raises(DataError, match=r"train.csv: record 2 has no label"):
        layouts.find(root)
    (root / "other.csv").write_text(text())
    with pytest.raises(UsageError, match=r"and train.csv could list its images; --data_dir="):
        layouts.find(root)


def test_val_is_judged_where_it_alone_has_defects(root):
    (root / "t.csv").write_text(text().replace(",test", ",val"))
    split = split_of(root)
    assert (len(split.train), judged(split)) == (2, WANTED)
    (root / "t.csv").write_text(text().replace("3.png,test", "3.png,val").replace("dent", "good"))
    split = split_of(root)  # good images alone are learned from
    assert (len(split.train), judged(split)) == (3, {"a/2.png": ("good", [])})


def test_a_column_without_a_name_is_no_split(root):
    """As pandas writes a table with its index."""
    (root / "t.csv").write_text(",path,label\n0,a/0.png,good\n1,a/1.png,good\n2,b/3.png,dent\n")
    split = split_of(root)
    assert (len(split.train), judged(split)) == (2, {"b/3.png": ("dent", None)})


def test_a_split_that_the_first_record_does_not_have(root):
    rows = [{key: row[key] for key in HEAD if row[key] != "train"} for row in
            (dict(zip(HEAD, row, strict=True)) for row in ROWS)]  # fmt: skip
    (root / "t.json").write_text(json.dumps(rows))
    split = split_of(root)
    assert (len(split.train), judged(split)) == (2, WANTED)


@pytest.mark.parametrize("cell", [["m/3.png", "m/4.png"], "m/3.png; m/4.png", "m/3.png|m/4.png"])
def test_several_masks_of_an_image(root, cell):
    trees.mask(root / "m/4.png", 9)
    rows = [dict(zip(HEAD, row, strict=True)) for row in ROWS]
    (root / "t.json").write_text(json.dumps([*rows[:3], rows[3] | {"mask": cell}]))
    assert judged(split_of(root))["b/3.png"] == ("dent", [3, 9])


def test_an_umlaut_in_two_signs_is_the_same(tmp_path):
    one, two = (unicodedata.normalize(form, "Gr\u00fcn") for form in ("NFC", "NFD"))
    root = trees.write(tmp_path / "set", "0.png", f"{two}.png", "=m/3.png")
    (root / "t.csv").write_text(f"path,label,mask\n0.png,ok,\n{one}.png,dent,m/3.png\n", "utf-8")
    assert judged(split_of(root)) == {f"{two}.png": ("dent", [3])}
    other = trees.write(tmp_path / "b", "train/good/0.png", f"test/dent/{one}.png")
    trees.mask(other / f"ground_truth/dent/{two}_mask.png", 5)
    assert judged(split_of(other)) == {f"test/dent/{one}.png": ("dent", [5])}


def test_an_absolute_path_is_called_as_it_lies_here(root):
    (root / "t.csv").write_text(text(of=elsewhere(f"{root}/", "/")))
    assert judged(split_of(root)) == WANTED
    other = root.parent / "other"
    other.mkdir()
    (other / "t.csv").write_text(text(of=elsewhere(f"{root}/", "/")))
    paths = split_of(other).train_paths
    assert paths == tuple(f"{root}/a/{i}.png".removeprefix("/") for i in range(2))


@pytest.mark.parametrize(
    "content",
    [text().partition("\n")[2], text(("picture", "class", "mask", "split")), "0.png: bad\n"],
)
@pytest.mark.parametrize("name", ["t.csv", "t.txt", "notes/t.txt"])
def test_a_table_that_is_not_understood_makes_no_defect_good(root, content, name):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(content)
    with pytest.raises(
        DataError, match=rf"set: {name} says something of images .*--layout=good_im"
    ):
        split_of(root)
    assert len(split_of(root, layout="good_images").train) == 5


@pytest.mark.parametrize("images", ["train/images/", "images/", ""])
def test_boxes_of_yolo_make_no_defect_good(tmp_path, images):
    root = trees.write(tmp_path / "set", *(f"{images}{i}.png" for i in range(3)))
    labels = root / images.replace("images", "labels")
    labels.mkdir(exist_ok=True)
    (labels / "0.txt").touch()
    (labels / "2.txt").write_text("0 0.5 0.5 0.25 0.125\n")
    with pytest.raises(DataError, match=r"2.txt says something of images in it, in a form that is"):
        split_of(root)


def test_a_log_of_a_camera_says_nothing_of_what_images_show(root):
    (root / "log.csv").write_text("time,file,exposure\n0,0.png,12\n")
    assert len(split_of(root).train) == 5
