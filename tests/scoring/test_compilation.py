"""The machine that JAX finds: no device of that name, a cache that cannot be had, wide numbers."""

import os

import jax
import jax.numpy as jnp
import pytest

from cae_jax.scoring import compilation
from cae_jax.types import UsageError

DIR = "jax_compilation_cache_dir"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A home folder of its own, nothing set and nothing said yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    before = jax.config.values[DIR]
    jax.config.update(DIR, None)
    compilation._say.cache_clear()
    yield tmp_path
    jax.config.update(DIR, before)


def test_our_own_folder_unless_another_is_set(cache, capsys):
    compilation.use_cache()
    assert jax.config.values[DIR] == str(cache / "home" / "cae_jax" / "xla")
    jax.config.update(DIR, str(cache / "theirs"))
    compilation.use_cache()
    assert jax.config.values[DIR] == str(cache / "theirs")
    assert (cache / "theirs").is_dir()
    assert capsys.readouterr().err == ""


def test_a_folder_has_one_name_from_wherever(cache, monkeypatch):
    """JAX's keys hold the folder's name: a relative one would be another cache in each folder."""
    (cache / "a").mkdir()
    monkeypatch.setenv("HOME", str(cache))
    for place, name in ((cache, "theirs"), (cache / "a", "../theirs"), (cache, "~/theirs")):
        monkeypatch.chdir(place)
        jax.config.update(DIR, name)
        compilation.use_cache()
        assert jax.config.values[DIR] == str(cache / "theirs")
    for name in ("gs://bucket/folder", ""):  # of "" JAX keeps nothing
        jax.config.update(DIR, name)
        compilation.use_cache()
        assert jax.config.values[DIR] == name
    assert {path.name for path in cache.iterdir()} == {"a", "theirs"}


def test_small_programs_are_kept_in_a_shared_folder_too(cache, monkeypatch):
    before = jax.config.values[compilation._LEAST]
    try:
        jax.config.update(DIR, str(cache / "theirs"))
        for environment, least in (
            ({}, 0.5),  # of the program that we are a part of
            ({"JAX_COMPILATION_CACHE_DIR": str(cache / "theirs")}, 0.0),
            ({"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}, 0.5),
        ):
            jax.config.update(compilation._LEAST, 0.5)
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            compilation.use_cache()
            assert jax.config.values[compilation._LEAST] == least
    finally:
        jax.config.update(compilation._LEAST, before)


def test_a_folder_that_cannot_be_made_is_said_once_and_nothing_is_kept(cache, capsys):
    (cache / "home").touch()
    for _ in range(2):
        compilation.use_cache()
    assert jax.config.values[DIR] == ""
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{cache / 'home' / 'cae_jax' / 'xla'}: Not a directory" in said
    assert float(jax.jit(lambda x: 2 * x + 5)(jnp.ones(()))) == 7


def test_a_full_folder_is_said_and_still_read(cache, capsys, monkeypatch):
    monkeypatch.setattr(compilation, "_ROOM", 2**80)
    for _ in range(2):
        compilation.use_cache()
    assert jax.config.values[DIR] == str(cache / "home" / "cae_jax" / "xla")
    assert capsys.readouterr().err.count("MB of room") == 1


def test_no_home(cache, capsys, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # no entry in /etc/passwd
    compilation.use_cache()
    assert jax.config.values[DIR] == ""
    assert "no home folder; JAX_COMPILATION_CACHE_DIR=FOLDER" in capsys.readouterr().err


def test_the_programs_used_the_longest_ago_go(cache, monkeypatch):
    folder = cache / "home" / "cae_jax" / "xla"
    folder.mkdir(parents=True)
    for i in range(5):
        (folder / str(i)).write_bytes(bytes(10))
        os.utime(folder / str(i), (1000 + (i + 3) % 5, 1000))
    monkeypatch.setattr(compilation, "_MOST", 25)
    compilation.use_cache()
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]
    theirs = cache / "theirs"
    folder.rename(theirs)
    monkeypatch.setattr(compilation, "_MOST", 0)
    jax.config.update(DIR, str(theirs))
    compilation.use_cache()
    assert len(list(theirs.iterdir())) == 2  # another's folder is another's


def test_a_device_that_is_not_there_is_named(monkeypatch):
    def none():
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(UsageError, match=r"^JAX_PLATFORMS=cuda: JAX cannot .*unset it"):
        compilation.check_devices()


def test_a_default_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("JAX_DEFAULT_DEVICE", "tpu")
    with (
        jax.default_device("tpu"),
        pytest.raises(UsageError, match=r"^JAX_DEFAULT_DEVICE=tpu: JAX cannot .*DEVICE=cpu$"),
    ):
        compilation.check_devices()
    with jax.default_device("cpu"):
        compilation.check_devices()


def test_numbers_have_32_bits_inside_and_are_as_they_were_outside():
    with jax.enable_x64(True):
        with compilation.in_32_bits():
            assert jnp.arange(3).dtype == "int32"
        assert jnp.arange(3).dtype == "int64"
