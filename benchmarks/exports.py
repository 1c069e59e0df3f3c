"""Exports trained runs, holds each form against the trained model, and times them side by side."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

import cae_jax
from benchmarks import timing
from cae_jax import files
from cae_jax.runs import cell as cells
from cae_jax.runs import command_line
from cae_jax.scoring import compilation
from cae_jax.serving import trained
from cae_jax.serving.export import export
from cae_jax.types import CaeError, height_width

_REPEATS = 9  # timed calls of each
_FORMS = {"stablehlo": "jax", "onnx": "onnxruntime"}
_RUNS = flags.DEFINE_list("runs", [], "workdirs; of each the first finished run of the category")
_CATEGORY = flags.DEFINE_string("category", "", "whose runs")
_JSON = flags.DEFINE_string("json", "exports.json", "where the records go, beside those there")


def measure(workdir: Path, category: str) -> dict[str, object]:
    """Returns how a run's exported forms score beside it, and in what time; raises CaeError."""
    found = [c for c in cells.find(workdir) if c.finished and c.config.category == category]
    if not (cell := next(iter(found), None)):
        raise CaeError(f"no finished run of {category}")
    which = {name: getattr(cell.config, name) for name in ("category", "method", "seed")}
    run = trained.open_run(workdir, **which)
    c, model = cell.config, getattr(cell.config.options, "model", "")
    images = np.random.default_rng(0).random((8, *height_width(c.image_size), c.channels))
    with tempfile.TemporaryDirectory() as folder:
        rows = export(run, Path(folder, "out"), list(_FORMS))
        of = {"trained": run.detector}
        of |= {form: cae_jax.load(f"{folder}/out", runtime=name) for form, name in _FORMS.items()}
        took = {}
        for n in (1, 8):
            pixels = images[:n].astype(np.float32)
            calls = {name: lambda d=d, p=pixels: d.call(p) for name, d in of.items()}
            seconds = timing.interleaved(calls, _REPEATS)
            took[n] = {k: 1e3 * float(np.median(v)) / n for k, v in seconds.items()}
        size = {f: sum(p.stat().st_size for p in Path(folder, "out", f).iterdir()) for f in _FORMS}
    of_form = {form: [row for row in rows if row.form.startswith(form)] for form in _FORMS}
    return {
        **{"method": c.method, "model": model, "side": c.image_size},
        "scores": len(rows),
        "score_error": {form: max(r.relative for r in of_form[form]) for form in _FORMS},
        "map_error": {form: max(r.map_error for r in of_form[form]) for form in _FORMS},
        "verdicts_same": all(row.same for row in rows),
        "ms_per_image": {str(n): of_n for n, of_n in took.items()},
        "megabytes": {form: round(n / 1e6, 2) for form, n in size.items()},
        **timing.environment(("onnx", "onnxruntime")),
    }


def run() -> None:
    """Measures the runs of the flags, one after the other, and keeps what is measured."""
    compilation.use_cache()
    path = Path(_JSON.value)
    records = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    for name in _RUNS.value:
        try:
            found = measure(Path(name), _CATEGORY.value)
            print(json.dumps(found), flush=True)
            key = (found["method"], found["model"])
            records = [r for r in records if (r["method"], r["model"]) != key] + [found]
            files.write_json(path, records)
        except CaeError as error:
            print(f"{name}: {error}", flush=True)


if __name__ == "__main__":
    command_line.main(run, [])
