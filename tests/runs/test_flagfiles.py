"""Flagfiles as editors write them."""

import pytest

from cae_jax.runs import flagfiles, presets
from cae_jax.runs.config import Config, configure
from cae_jax.types import UsageError

TEXT = "# Größe\n--epochs=3\n\n  --workdir=Größe \n// no\n--overwrite\n"
FLAGS = ["--epochs=3", "--workdir=Größe", "--overwrite"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_whatever_the_editor(tmp_path, encoding, end):
    path = tmp_path / "a.flags"
    path.write_bytes(TEXT.replace("\n", end).encode(encoding))
    inner = tmp_path / "inner.flags"
    inner.write_bytes(f"\ufeff--flagfile={path}{end}--seed=1".encode())
    assert flagfiles.lines(path) == FLAGS
    for given in ([f"--flagfile={inner}"], ["--flagfile", str(inner)]):
        line = flagfiles.expanded(["run", "--seed=2", *given, "--keep=1"])
        assert line == ["run", "--seed=2", *FLAGS, "--seed=1", "--keep=1"]
    found = presets.read(str(path))
    assert (found.options.epochs, found.workdir, found.overwrite) == (3, "Größe", True)


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a.flags"
    path.write_bytes("--workdir=Größe".encode("latin-1"))
    with pytest.raises(UsageError, match=r"a\.flags: is not UTF-8"):
        flagfiles.expanded([f"--flagfile={path}"])
    path.write_bytes("--epochs=3".encode("utf-16-le")[:-1])
    with pytest.raises(UsageError, match=r"a\.flags: is not UTF-16: truncated data"):
        flagfiles.expanded([f"--flagfile={path}"])
    for content in (b"--epochs=3\n--se\0ed=1", "--epochs=3".encode("utf-32")):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"a\.flags: is no text .*zero bytes"):
            flagfiles.expanded([f"--flagfile={path}"])
    path.write_text(f"--flagfile={path}")
    with pytest.raises(UsageError, match=r"a\.flags: names itself"):
        flagfiles.expanded([f"--flagfile={path}"])
    with pytest.raises(UsageError, match="none: cannot be read: No such file"):
        flagfiles.expanded(["--flagfile=none"])


def test_the_flags_of_a_run_with_a_mark():
    record = configure(epochs=3)
    assert Config.from_flagfile("\ufeff" + record.to_flagfile(), "flags.txt") == record
