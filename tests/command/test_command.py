"""The command `cae-jax`, and --preset."""

import subprocess
import sys

import pytest
from command_lines import ENVIRONMENT, ROOT, run_all

from cae_jax import command, methods
from cae_jax.runs import presets

LINES = {
    "preset": ["--preset=variation_model", "--category=weavy"],
    "given later": ["--image_size=40", "--preset", "variation_model", "--category=weave"],
    "flagfile": ["--flagfile={x}", "--stride=500"],
    "unknown": ["--preset=inspct"],
    "none": ["--preset="],
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    (folder / "flags.txt").write_text("--preset=autoencoder_small\n")
    lines = {
        name: ("run", [word.replace("{x}", str(folder / "flags.txt")) for word in words], "")
        for name, words in LINES.items()
    }
    lines["given later"][1].append("--dry_run")
    lines["not of it"] = ("report", ["--preset=inspect"], "")
    lines["of its file"] = ("cae_jax.command", ["help", "report"], "")
    return run_all(lines, folder, PYTHONPATH=str(ROOT))


def test_a_preset_is_found_by_its_name(answers):
    code, _, err = answers["preset"]
    assert (code, "did you mean weave" in err) == (2, True)
    assert "no --dataset given" not in err


def test_what_is_given_beside_a_preset_holds_wherever_it_stands(answers):
    code, out, err = answers["given later"]
    assert code == 0, err
    assert f"{2 * 40 * 40:,} parameters" in out  # a mean and a deviation for each pixel


def test_a_preset_in_a_flagfile(answers):
    assert "--stride=500 is outside 1.." in answers["flagfile"][2]


def test_an_unknown_preset_is_told_the_nearest_and_all(answers):
    code, _, err = answers["unknown"]
    assert code == 2
    assert "--preset=inspct: unknown preset 'inspct': did you mean inspect" in err
    for name in presets.names():
        assert name in err
        assert name in answers["none"][2]


def test_a_command_without_a_run_s_flags_has_no_preset(answers):
    code, _, err = answers["not of it"]
    assert code == 2
    assert "preset" in err


def told(capsys, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["cae-jax", *words])
    code = 0
    try:
        command.main()
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_command(capsys, monkeypatch, words):
    code, out, err = told(capsys, monkeypatch, *words)
    assert (code, err) == (0, "")
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert listed == list(command.COMMANDS)
    assert "a verdict per image out" in out


def test_an_unknown_command_is_told_the_nearest(capsys, monkeypatch):
    code, out, err = told(capsys, monkeypatch, "scor")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown command 'scor': did you mean score")


def test_every_command_is_an_experiment_of_the_repository_too():
    files = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}
    assert files == set(command.COMMANDS.values())
    here = {path.stem for path in (ROOT / "cae_jax/command").glob("*.py")}
    assert files == here - {"__init__", "__main__"}
    for name in files:
        text = (ROOT / "experiments" / f"{name}.py").read_text()
        assert f'runpy.run_module("cae_jax.command.{name}", run_name="__main__"' in text


def test_a_commands_words_come_to_its_file(answers):
    code, out, err = answers["of its file"]
    assert (code, err) == (0, "")
    assert "One HTML file for each finished run" in out
    assert "--workdir" in out


LOOK = """
import contextlib, io, runpy, sys
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said := io.StringIO()):
    runpy.run_module("cae_jax.command." + sys.argv[1], run_name="__main__", alter_sys=True)
print(len(said.getvalue()) > 500)
slow = ("flax", "jax", "matplotlib", "optax", "orbax", "pandas", "scipy")
print(*(name for name in sys.modules if name in slow))
"""


@pytest.mark.parametrize(
    ("words", "is_help"),
    [
        (["run", "--help"], True),
        (["run", "--helpfull", "--method=f_anogan"], True),
        (["run", "--score_weight=1"], False),  # looked for among the flags of all methods
        (["score", "--help"], True),
        (["export", "--help"], True),
        (["describe", "--help"], True),
    ],
)
def test_flags_are_read_without_what_takes_long_to_import(words, is_help):
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *words],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout == f"{is_help}\n\n"
    assert ("--score_weight: a flag of --method=bigan" in done.stderr) == (not is_help)


def test_every_methods_flags_are_apart_and_its_own():
    for name in methods.names():
        assert methods.options_of(name) is methods.resolve(name).Options
        assert methods.options_of(name).__module__ == f"cae_jax.methods.options.{name}"
