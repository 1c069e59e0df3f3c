"""The history: rows, the pictures of the last hundred, the operator's word, CSV."""

import csv
import io
import math
import sqlite3
import threading

import page_app
import pytest

from cae_jax.serving.service.history import History
from cae_jax.types import DataError, UsageError

BRIGHT, GRAY = page_app.image(1.0), page_app.image(0.5)


@pytest.fixture(scope="module")
def verdicts():
    """Of a defective image, and of a good one."""
    detector = page_app.detector()
    return detector.score(BRIGHT), detector.score(GRAY)


@pytest.fixture(params=["memory", "file"])
def history(request, tmp_path):
    opened = History(tmp_path / "history.db" if request.param == "file" else None)
    yield opened
    opened.close()


def record(history, verdict, name="a.png", model="tablet"):
    return history.record(model, "v1", name, verdict, b"\x89PNG picture", b"map", b"mask")


def test_what_was_recorded_is_read_back(history, verdicts):
    ids = [record(history, verdict, name) for verdict, name in zip(verdicts, "ab", strict=True)]
    good, bad = history.rows(10)
    assert (bad.id, good.id) == tuple(ids)
    assert (bad.name, bad.model, bad.version) == ("a", "tablet", "v1")
    assert (bad.defective, good.defective) == (True, False)
    assert (bad.score, bad.threshold, bad.p_value) == (50.0, 3.0, 1 / 40)
    assert bad.sentence == "Defective: more unusual than all 39 good parts it was compared with."
    assert bad.pictures
    assert [history.picture(ids[0], part) for part in ("picture", "map", "mask")] == [
        b"\x89PNG picture", b"map", b"mask"]  # fmt: skip
    assert history.picture("nobody", "map") is None
    with pytest.raises(UsageError, match="unknown part 'id'"):
        history.picture(ids[0], "id")


def test_without_a_p_value(history, verdicts):
    record(history, verdicts[0]._replace(p_value=math.nan))
    assert math.isnan(history.rows(1)[0].p_value)
    assert "cannot be said" in history.rows(1)[0].sentence


def test_rows_are_chosen(history, verdicts):
    bad, good = verdicts
    names = [(bad, "a", "x"), (good, "b", "x"), (bad, "c", "y"), (good, "d", "y")]
    ids = {name: record(history, verdict, name, model) for verdict, name, model in names}
    history.review(ids["a"], "false alarm")

    def found(**asked):
        return "".join(row.name for row in history.rows(10, **asked))

    assert found() == "dcba"
    assert found(model="x") == "ba"
    assert found(verdict="defective") == "ca"
    assert found(model="y", verdict="good") == "d"
    assert found(review="false alarm") == "a"
    assert found(review="") == "dcb"
    assert [row.name for row in history.rows(2)] == ["d", "c"]
    for asked in ({"verdict": "bad"}, {"review": "yes"}):
        with pytest.raises(UsageError, match="unknown"):
            history.rows(10, **asked)


def test_only_what_makes_sense_can_be_said(history, verdicts):
    bad, good = (record(history, verdict) for verdict in verdicts)
    for id, word in ((bad, "false alarm"), (bad, "agree"), (good, "missed"), (good, "")):
        history.review(id, word)
        assert {row.id: row.review for row in history.rows(2)}[id] == word
    for id, word in ((bad, "missed"), (good, "false alarm"), (good, "maybe")):
        with pytest.raises(UsageError, match=f"unknown review '{word}'"):
            history.review(id, word)
    with pytest.raises(UsageError, match="no image 'nobody'"):
        history.review("nobody", "agree")
    with pytest.raises(UsageError, match=r"no image '\\ud800'"):
        history.review("\ud800", "agree")
    assert [row.review for row in history.rows(2)] == ["", "agree"]


def test_pictures_of_the_last_hundred_are_kept(history, verdicts):
    ids = [record(history, verdicts[1]) for _ in range(103)]
    kept = [history.picture(id, "map") is not None for id in ids]
    assert kept == 3 * [False] + 100 * [True]
    assert [row.pictures for row in history.rows(200)] == 100 * [True] + 3 * [False]


def test_threads(history, verdicts):
    """Four write and read at once: every row is there once, and the counts are whole."""
    ids, errors = [], []

    def work():
        try:
            for _ in range(15):
                id = record(history, verdicts[0])
                ids.append(id)
                history.review(id, "agree")
                assert history.picture(id, "mask") == b"mask"
                "".join(history.csv())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    rows = history.rows(100)
    assert sorted(row.id for row in rows) == sorted(ids)
    assert len(set(ids)) == 60
    assert {row.review for row in rows} == {"agree"}


def test_csv(history, verdicts):
    names = ["plain.png", '=HYPERLINK("http://x")', "a,b\n\u202ec", "no utf8 \udcff"]
    for name in names:
        record(history, verdicts[0], name)
    history.review(history.rows(1)[0].id, "agree")
    rows = list(csv.DictReader(io.StringIO("".join(history.csv()))))
    assert list(rows[0]) == ["id", "time", "model", "version", "name", "verdict", "score",
                             "threshold", "p_value", "operator"]  # fmt: skip
    assert [row["name"] for row in rows] == [
        "plain.png", '\'=HYPERLINK("http://x")', r"a,b\n\u202ec", r"no utf8 \udcff"]  # fmt: skip
    assert [row["operator"] for row in rows] == ["", "", "", "agree"]
    assert {(row["verdict"], float(row["score"]), row["p_value"]) for row in rows} == {
        ("defective", 50.0, "0.025")}  # fmt: skip
    assert rows[0]["time"].endswith("+00:00")


def test_a_file_outlives_the_service(tmp_path, verdicts):
    path = tmp_path / "history.db"
    history = History(path)
    history.review(record(history, verdicts[0]), "false alarm")
    history.close()
    again = History(path)
    assert [row.review for row in again.rows(10)] == ["false alarm"]
    record(again, verdicts[1])
    assert len(again.rows(10)) == 2
    with pytest.raises(DataError, match=r"history\.db: "):  # a closed one says so in one line
        history.rows(1)
    again.close()


def test_a_memory_is_bounded(verdicts, monkeypatch):
    monkeypatch.setattr("cae_jax.serving.service.history._IN_MEMORY", 5)
    history = History()
    ids = [record(history, verdicts[0]) for _ in range(8)]
    assert [row.id for row in history.rows(10)] == ids[:-6:-1]
    history.close()


def test_a_file_that_is_no_history(tmp_path):
    (tmp_path / "text.db").write_text("no database" * 100)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine (x)")
    other.close()
    for name in ("text.db", "other.db", "nowhere/h.db"):
        with pytest.raises(DataError, match=rf"--history=.*{name}: "):
            History(tmp_path / name)


def test_a_file_that_is_taken_away_or_locked(tmp_path, verdicts, monkeypatch):
    monkeypatch.setattr("cae_jax.serving.service.history._LOCKED", 0.01)
    path = tmp_path / "h.db"
    history = History(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DataError, match="is locked"):
        record(history, verdicts[0])
    other.execute("ROLLBACK")
    other.close()
    id = record(history, verdicts[0])
    path.rename(tmp_path / "moved.db")
    with pytest.raises(DataError, match=r"h.db: was removed or replaced"):
        record(history, verdicts[0])
    History(path).close()
    with pytest.raises(DataError, match=r"h.db: was removed or replaced"):
        history.review(id, "agree")
    history.close()
