"""Tables that grow, for Excel or plain, from start to start."""

import csv

import pytest

from cae_jax.serving import growing_table as tables

NAMES = ["=1+1.png", "@a,b.png", "Größe.png", "'-1.png", "-2.png"]
BAD = ("+3.png", "-- is empty")
OF_FILE = (10, 1795728664, "e3b0c442")


def write(output, names, excel, part=""):
    with tables.append_to(output, "scores", part, excel) as scores:
        for i, name in enumerate(names):
            scores.write(tables.row(name, -0.5 * i, 0.25, 1, *OF_FILE, excel=excel))


def cells(path):
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    marked = text.startswith("\ufeff")
    return marked, [row for row in csv.reader(text.removeprefix("\ufeff").splitlines())][1:]


@pytest.mark.parametrize("excel", [False, True])
def test_a_start_goes_on_with_what_another_wrote_in_either_way(tmp_path, excel):
    tables.claim(tmp_path, {"weights": "a"}, excel=not excel)
    write(tmp_path, NAMES[:2], not excel)
    write(tmp_path, NAMES[2:4], not excel, ".part-1-of-2")
    with (tmp_path / "scores.csv").open("a") as file:
        file.write("torn")
    tables.claim(tmp_path, {"weights": "a"}, excel=excel)
    assert [*tables.rows(tmp_path / "scores.csv", "scores")] == sorted(NAMES[:4])
    write(tmp_path, NAMES[4:], excel)
    tables.merge(tmp_path, "scores", excel)
    found = tables.rows(tmp_path / "scores.csv", "scores")
    assert [*found] == sorted(NAMES)
    numbers = {name: -0.5 * i for i, name in enumerate([*NAMES[:2]])}
    assert tables.fields(found[NAMES[1]])[1:] == [str(numbers[NAMES[1]]), "0.25", "1", "10",
                                                  "1795728664", "e3b0c442"]  # fmt: skip
    marked, rows = cells(tmp_path / "scores.csv")
    assert marked is excel
    before = [each[0] for each in rows]
    mark = "'" if excel else ""
    assert before == [name if name[0] == "G" else mark + name for name in sorted(NAMES)]


def test_what_was_left_out_is_no_formula_either(tmp_path):
    tables.claim(tmp_path, {"weights": "a"}, excel=True)
    with tables.append_to(tmp_path, "left_out", excel=True) as table:
        table.write(tables.row(*BAD, excel=True))
    tables.merge(tmp_path, "left_out", True)
    assert cells(tmp_path / "left_out.csv") == (True, [["'+3.png", "'-- is empty"]])
    (row,) = tables.rows(tmp_path / "left_out.csv", "left_out").values()
    assert tuple(tables.fields(row)) == BAD
