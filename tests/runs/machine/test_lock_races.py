"""What another process does to a lock's folder and file between two calls of ours."""

import errno
import pathlib

import pytest

from cae_jax.runs.machine import lock
from cae_jax.types import DataError


@pytest.mark.parametrize("fault", [FileNotFoundError, FileExistsError])
def test_a_folder_that_another_process_takes_away_is_made_again(tmp_path, monkeypatch, fault):
    """It makes a and a/b, we find a, it removes both, and we cannot make a/b; or find b, which is
    gone when it is looked at."""
    mkdir, faults = pathlib.Path.mkdir, [fault(errno.ENOENT, "", str(tmp_path / "a/b"))]

    def meanwhile(path, *mode, **how):
        if faults:
            raise faults.pop()
        mkdir(path, *mode, **how)

    monkeypatch.setattr(pathlib.Path, "mkdir", meanwhile)
    with lock.hold(tmp_path / "a/b"):
        assert (tmp_path / "a/b/.lock").is_file()
    assert (faults, list(tmp_path.iterdir())) == ([], [])


def test_what_never_ends_is_told(tmp_path, monkeypatch):
    (tmp_path / ".lock").symlink_to(tmp_path / "none/lock")
    with pytest.raises(DataError, match="cannot be written: No such file"), lock.hold(tmp_path):
        pass
    (tmp_path / ".lock").unlink()
    monkeypatch.setattr(lock, "_same", lambda *_: False)  # numbers of files that change
    with pytest.raises(DataError, match="another one at each look"), lock.hold(tmp_path):
        pass
