"""The watcher's flags of experiments.serve, and its start from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from absl import flags

from cae_jax.runs import command_line
from cae_jax.serving.detector import Detector
from cae_jax.serving.watch import watcher
from cae_jax.serving.watch.options import ALARM_ON, CSV, Options

flags.disclaim_key_flags()  # they belong to the binary that calls `define`: its --help


def define() -> None:
    """Defines --watch, --output and the flags of `Options`."""
    default = Options()
    flags.DEFINE_string("watch", "", "judge the images that are written into this folder")
    flags.DEFINE_string("output", "", "of --watch: where results.csv and judged images go")
    flags.DEFINE_bool("keep", default.keep, "of --watch: leave the images where they are")
    for name, text in (
        ("settle", "seconds that a file must not have changed to be taken"),
        ("give_up", "seconds after which a file that is no whole image is put into OUT/refused"),
        ("poll", "seconds between two looks into the folder"),
        ("alarm_seconds", "seconds that --alarm_command or the answer of --webhook may take"),
    ):
        flags.DEFINE_float(name, getattr(default, name), f"of --watch: {text}")
    flags.DEFINE_bool("once", default.once, "of --watch: judge what is there, and leave")
    flags.DEFINE_enum(
        "csv", default.csv, CSV,
        "of --watch: tables, plain, or excel, with a byte order mark and no text that is a formula",
    )  # fmt: skip
    flags.DEFINE_string("screen", "", "of --watch: the picture for a screen; OUT/latest.png if not")
    flags.DEFINE_string("alarm_command", "", "of --watch: a command, run without a shell")
    flags.DEFINE_string("webhook", "", "of --watch: a URL to which alarms are posted as JSON")
    flags.DEFINE_enum("alarm_on", default.alarm_on, ALARM_ON, "of --watch: what is an alarm")


def given() -> Options:
    """Returns the record of the parsed flags."""
    fields = dataclasses.fields(Options)
    values: dict[str, Any] = {field.name: flags.FLAGS[field.name].value for field in fields}
    return Options(**values)


def run(load: Callable[[], Detector]) -> None:
    """Watches the folder of the flags until it is stopped, and says what was judged.

    `load` gives the detector, after the flags are found to fit. Raises what `watcher.watch` does.
    """
    inbox = command_line.needed("watch", "the folder that a camera writes into")
    output = command_line.needed("output", "where results.csv and judged images go")
    options = given()
    options.check(inbox, output)
    detector = load()
    detector.warm_up()
    done = watcher.watch(detector, inbox, output, options)
    print(
        f"{done.judged} images judged, {done.defective} of them defective, "
        f"{done.refused} refused: {output / 'results.csv'}"
    )
