"""Writes a trained run as a folder that works without the code that trained it: for JAX
(stablehlo), for ONNX Runtime and others (onnx), and as a page for a browser (web).

What is written is checked: on images of odd sizes and several modes it scores as the run does, or
there is no folder. `cae_jax.load(FOLDER)` and `experiments.serve --model=FOLDER` take it.
"""

from __future__ import annotations

from absl import flags

from cae_jax.runs import command_line

_WHICH = ("category", "method", "model", "seed", "loss")  # of a workdir's runs
_FORMAT = flags.DEFINE_list("format", ["stablehlo", "onnx"], "of stablehlo, onnx, web")
_FALSE_ALARMS = flags.DEFINE_float(
    "false_alarms",
    None,
    "rate of them that the threshold is for; as in the report if not given",
    0,
    0.5,
)
_THRESHOLD = flags.DEFINE_string("threshold", None, "its rule, as in percent:95, f1_best")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", None, ["last", "best"], "whose weights judge")
_WEB = flags.DEFINE_string(
    "onnxruntime_web", "", "its npm package, a file or folder; fetched if not given"
)
flags.DEFINE_string("output", "", "the folder to write")


def run() -> None:
    """Exports the run of the flags and says where it lies and how it was checked."""
    from cae_jax.scoring import compilation  # a --help need not wait for them
    from cae_jax.serving import trained
    from cae_jax.serving.export import export

    workdir = command_line.needed("workdir", "the folder of a run")
    output = command_line.needed("output", "the folder to write")
    compilation.use_cache()
    asked = (_FALSE_ALARMS.value, _THRESHOLD.value, _CHECKPOINT.value)
    opened = trained.open_run(workdir, None, *asked, **command_line.present(_WHICH))
    overwrite = command_line.value("overwrite")
    rows = export(opened, output, _FORMAT.value, overwrite, _WEB.value)
    worst = max(row.relative for row in rows)
    print(
        f"{opened.cell.title}: {output}: {len(rows)} scores checked, at most {worst:.1e} apart, "
        "every verdict the same"
    )


if __name__ == "__main__":
    names = ["workdir", *_WHICH, "overwrite"]
    command_line.main(run, names, again="nothing was written, the same command starts anew")
