"""The command line of the binaries: flags of the chosen method, one-line errors, exit codes."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from cae_jax import methods
from cae_jax.options import A_SIZE, SCORING, Fields, Pixels, bounds, check_value, read_size, to_text
from cae_jax.runs import config, flagfiles, presets
from cae_jax.runs.config import Config
from cae_jax.runs.machine import alarms, streams, variables
from cae_jax.types import CaeError, Size, UsageError

GOES_ON = "the same command goes on from the last checkpoint"  # of binaries that train
_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


class _Sizes(flags.ArgumentParser):
    """absl's parser of a flag whose value is a size."""

    syntactic_help = A_SIZE

    def parse(self, argument: Any) -> Size:
        try:
            return read_size(str(argument)) if isinstance(argument, str) else argument
        except ValueError:
            raise ValueError(A_SIZE) from None


class _SizeText(flags.ArgumentSerializer):
    def serialize(self, value: Any) -> str:
        return to_text(value)


def _define_size(name: str, default: Size | None, about: str) -> None:
    flags.DEFINE(_Sizes(), name, default, about, serializer=_SizeText())


_DEFINE[Pixels] = _define_size
_EXPECTED = {  # what absl's messages hold, and what is expected
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
    A_SIZE: A_SIZE,
}
# What another program's environment may say (JAX_ENABLE_X64=1) and nothing here is written for.
_PLAIN = {
    "jax_enable_x64": False,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
    "jax_transfer_guard": "allow",
    "jax_disable_jit": False,  # hours for minutes
    "jax_default_prng_impl": "threefry2x32",  # other random numbers would be another run
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
}
_FOLDER, _OWN_IMAGES = "folder", "inspect"
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

flags.disclaim_key_flags()  # they belong to the binary that calls `main`: its --help


def main(
    run: Callable[[], None],
    names: Collection[str] | None = None,
    but: Collection[str] = (),
    default_preset: str | None = None,
    of_runs: bool = False,
    of_entries: Callable[[Sequence[str]], Sequence[str]] | None = None,
    again: str = "",
) -> None:
    """Runs a binary under absl; what the user can mend becomes one line and an exit code.

    Args:
      run: the binary, which may ask for `given`.
      names: the flags it has of `config.flags_of` the --method on the command line; None for all.
      but: flags that it does not have.
      default_preset: the preset for what the command line leaves open, when it names neither a
        data set nor a preset or a flagfile of its own; where it names a --data_dir, that is
        inspect.
      of_runs: it also has the flags of scoring of the runs in --workdir.
      of_entries: gives the methods of the entries in --methods, a flag of its own. It then has the
        flags of all of them, but for --method, without defaults: each entry has its own; of none
        those of --method.
      again: what is said after Ctrl-C and SIGTERM: what the same command would do.

    Exit codes: 0, 2 for a flag that cannot work, 130 after Ctrl-C, 143 after SIGTERM, else 1.
    """
    streams.mend()
    _defined.clear()
    try:
        argv = flagfiles.expanded(sys.argv)
        argv = argv if names is not None else _with_preset(argv, default_preset)
        method, known, several = _known(argv, of_runs, of_entries)
        for name, field in known.items():
            scored = of_runs and field.metadata["part"] == SCORING
            if (names is None or name in names or scored) and name not in but:
                default = None if several else field.default
                _DEFINE[type(field.default)](name, default, field.metadata["help"])
                _defined[name] = field
    except (flags.Error, UsageError) as error:
        _leave(str(error), UsageError.exit_code)

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
            _check_values()
        except flags.UnrecognizedFlagError as error:
            _leave(_unrecognized(error, method), UsageError.exit_code)
        except flags.Error as error:
            _leave(_plainly(str(error)), UsageError.exit_code)
        except UsageError as error:
            _leave(str(error), error.exit_code)
        except SystemExit:  # of --help, which absl ends with 1
            sys.exit(0)
        except OSError as error:
            _leave(f"writing: {error.strerror}", 1)
        if len(rest) > 1:
            _leave(f"not a flag: {rest[1]!r} (flags are --name=value)", UsageError.exit_code)
        return rest

    app.run(lambda _: _guarded(run, again), argv=argv, flags_parser=parse)


_defined: dict[str, Any] = {}  # the fields of the flags that `main` defined


def _check_values() -> None:
    for name, field in _defined.items():
        if flags.FLAGS[name].value is not None:
            check_value(field, flags.FLAGS[name].value)


def given() -> Config:
    """Returns the record of the parsed flags, checked; raises UsageError.

    What is not given, or the binary has no flag for, has its default; of flags of several methods,
    those of --method's hold.
    """
    values = present()
    known = config.flags_of(values.get("method", methods.DEFAULT))
    found = config.configure(**{name: given for name, given in values.items() if name in known})
    found.check()
    return found


def present(names: Collection[str] | None = None) -> dict[str, Any]:
    """Returns the flags, of these names or all, that stand on the command line, with values.

    A --data_dir without a --dataset is of a folder.
    """
    there = {name: flags.FLAGS[name].value for name in _defined if flags.FLAGS[name].present}
    if there.get("data_dir") and "dataset" in _defined:
        there = {"dataset": _FOLDER} | there
    return {name: value for name, value in there.items() if names is None or name in names}


def excel() -> bool:
    """Returns whether --csv asks for tables for Excel; raises UsageError for no known form."""
    found = config.configure(**present(("csv",)))
    found.check()
    return found.excel


def words() -> dict[str, str]:
    """Returns all flags on the command line by name, also the binary's own, as they stand there."""
    there = {name: flags.FLAGS[name] for name in flags.FLAGS if flags.FLAGS[name].present}
    return {name: " ".join(flag.serialize().split("\n")) for name, flag in there.items()}


def value(name: str) -> Any:
    """Returns a flag's value."""
    return flags.FLAGS[name].value


def needed(name: str, what: str) -> Path:
    """Returns a flag's path; raises UsageError where it was not given, saying `what` it is."""
    found = flags.FLAGS[name].value
    if not found:
        raise UsageError(f"--{name} is needed: {what}")
    return Path(os.path.expanduser(found))


def _with_preset(argv: Sequence[str], preset: str | None) -> list[str]:
    """The command line with a preset's flags before its own, which hold where both are given."""
    flags.DEFINE_string("preset", "", f"its flags first: {', '.join(presets.names())}")
    early = flags.FlagValues()
    flags.DEFINE_string("preset", "", "", flag_values=early)
    early(argv, known_only=True)
    words = {word.lstrip("-").partition("=")[0] for word in (*argv[1:], *sys.argv[1:])}
    if early["preset"].present:
        preset = early.preset
    elif not preset or {"dataset", "flagfile", "help", "helpfull", "method"} & words:
        return list(argv)
    else:
        if "data_dir" in words:  # images of one's own
            preset = _OWN_IMAGES
        print(f"no --dataset given: flags from --preset={preset}", file=sys.stderr)
    return [argv[0], *flagfiles.lines(presets.path(preset)), *argv[1:]]


@variables.of_jax()
def _known(
    argv: Sequence[str],
    of_runs: bool,
    of_entries: Callable[[Sequence[str]], Sequence[str]] | None,
) -> tuple[str, Fields, bool]:
    """The method that the command line names, and its flags, or those of the runs or the entries
    that it names; and whether it is of entries."""
    early = flags.FlagValues()
    flags.DEFINE_string("method", methods.DEFAULT, "", flag_values=early)
    flags.DEFINE_string("workdir", "", "", flag_values=early)
    flags.DEFINE_list("methods", [], "", flag_values=early)
    early(argv, known_only=True)
    entries = of_entries(early.methods) if of_entries else []
    names: Sequence[str] = entries or [early.method]
    if of_runs and early.workdir:
        from cae_jax.runs.cell import listed  # brings pandas, which --help need not wait for

        cells = listed(Path(os.path.expanduser(early.workdir)))
        names = sorted({cell.config.method for cell in cells}) or names
    known: dict[str, dataclasses.Field[Any]] = {}
    for name in names:
        known |= config.flags_of(name)
    if entries:
        del known["method"]
    return " or ".join(names), known, bool(entries)


def _unrecognized(error: flags.UnrecognizedFlagError, method: str) -> str:
    """Says of which method a flag is; else what absl says."""
    for name in (error.flagname, error.flagname.removeprefix("no")):
        if others := config.methods_with(name):
            return str(config.not_a_flag(name, method, others))
    return _plainly(str(error))


def _guarded(run: Callable[[], None], again: str) -> None:
    jax = _jax()
    logging.set_verbosity(logging.FATAL)  # orbax tells a story of what it also raises
    signal.signal(signal.SIGTERM, _terminate)
    for name, value in _PLAIN.items():
        jax.config.update(name, value)
    try:
        with alarms.hidden():
            run()
        sys.stdout.flush()  # at the end of the process a full disk would be a traceback
    except CaeError as error:
        _leave(str(error), error.exit_code)
    except OSError as error:
        full = error.errno in _FULL_DISK
        hint = "no space left; what was written before is whole" if full else error.strerror
        _leave(f"{error.filename or 'writing'}: {hint or error}", 1)
    except KeyboardInterrupt as stop:
        word, code = ("terminated", 143) if stop.args else ("interrupted", 130)
        _leave("; ".join(filter(None, [word, again])), code)


def _jax() -> Any:
    """JAX, imported here, for a --help is read before it would have come."""
    with importing_jax():
        import jax
    return jax


@contextlib.contextmanager
def importing_jax() -> Iterator[None]:
    """Ends the command with a line where JAX is imported in the block and cannot take a variable of
    the environment."""
    try:
        with variables.of_jax():
            yield
    except UsageError as error:
        _leave(str(error), error.exit_code)


def _terminate(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def _plainly(message: str) -> str:
    """What absl says of a flag, in the words of `check_value`."""
    if message.startswith("Unknown command line flag") and "Did you mean" not in message:
        return f"{message.rstrip('. ')}: --help lists the flags"
    found = re.match(r"flag --(\w+)=(.*?): (.*)", message, re.DOTALL)
    if not found:
        return message
    name, given, cause = found.groups()
    for theirs, ours in _EXPECTED.items():
        if theirs in cause:
            range_of = bounds(_defined[name]) if name in _defined else ""
            return f"--{name}={given}: must be {ours}{range_of}"
    return f"--{name}={given}: {cause}"


def _leave(message: str, code: int) -> NoReturn:
    print("error: " + " ".join(message.split("\n")), file=sys.stderr)
    sys.exit(code)
