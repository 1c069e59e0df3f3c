"""The records of the parts as tables in Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.accelerator import conduct, plan
from cae_jax.reports.thesis import page

Record = Mapping[str, Any]
_SHOWN = 90  # characters of a cause


def folders(above: Path) -> list[Path]:
    """Returns the folders in one, by name, a device each, that hold the files of parts."""
    return sorted({file.parent for part in plan.PARTS for file in above.glob(f"*/{part}.json")})


def tables(folder: Path) -> str:
    """Returns a section per part whose file lies in the folder; "" without any."""
    lines: list[str] = []
    for part in plan.PARTS:
        found = conduct.read(folder / f"{part}.json")
        if found["records"]:
            lines += _section(part, found)
    return "\n".join(lines)


def _section(part: str, found: Record) -> list[str]:
    seen = found["environment"]
    where = f"{seen.get('device_kind', '?')}, jax {seen.get('jax', '?')}"
    whole = "" if found["complete"] else "; not all cases were reached"
    lines = [f"### accelerator: {part}", "", f"On {where}{whole}:", ""]
    rows = [
        row for record in found["records"] if "failed" not in record for row in _ROWS[part](record)
    ]
    for kind, speed in (one for r in found["records"] for one in r.get("tflops", {}).items()):
        lines[-1:] = [f"- a large matrix product in {kind}: {speed:.0f} TFLOP/s", ""]
    for _, alike in itertools.groupby(rows, key=list):
        frame = pd.DataFrame(list(alike))
        lines += [*page.grid(frame.astype(object).where(frame.notna(), None)), ""]
    for record in found["records"]:
        for kind, cause in _failures(record):
            lines.append(f"- {kind}: {cause[:_SHOWN]}")
    return [*lines, ""] if lines[-1] else lines


def _failures(record: Record) -> Iterator[tuple[str, str]]:
    if "failed" in record:
        yield record["case"], record["failed"]
    for call in record.get("calls", ()):
        if "failed" in call:
            yield f"{record['case']}, {call['batch_size']} images", call["failed"]


def _numbers(r: Record) -> Iterator[dict[str, Any]]:
    for mode in r["modes"]:
        yield {
            **{"what": r["case"], "distance": r["distance"], "precision": mode["mode"]},
            "largest difference of scores": mode["largest_difference"],
            "of maps": mode["map_difference"],
            f"verdicts changed of {r['images']}": mode["verdicts_changed"],
            "AUROC": mode["image_auroc"],
            "AUROC on the CPU": mode["image_auroc_cpu"],
        }


def _inference(r: Record) -> Iterator[dict[str, Any]]:
    if "tflops" in r:
        return
    yield {
        **{"model": r["model"], "images": r["batch_size"], "precision": r["mode"]},
        **{"ms an image": r["ms_per_image"], "images/s": r["images_per_second"]},
        **{"patches/s": r.get("patches_per_second"), "share of peak": r.get("share_of_peak")},
        **_compiled(r),
    }


def _training(r: Record) -> Iterator[dict[str, Any]]:
    yield {
        **{"model": r["model"], "precision": r["mode"]},
        "a call is": "an epoch" if r["an_epoch_a_call"] else "a step",
        **{"ms a step": r["ms_per_step"], "s an epoch": r["seconds_per_epoch"]},
        "min per 200 epochs": r["seconds_per_200_epochs"] / 60,
        **{"patches/s": r["patches_per_second"], "share of peak": r.get("share_of_peak")},
        **_compiled(r),
    }


def _members(r: Record) -> Iterator[dict[str, Any]]:
    yield {
        **{"model": r["model"], "members": r["members"], "by": r["strategy"]},
        **{"ms a step of all": r["ms_per_step_of_all"], "patches/s": r["patches_per_second"]},
        "s to compile": r["compile_seconds"],
        "GB held at most": _gigabytes(r.get("peak_bytes_in_use")),
    }


def _features(r: Record) -> Iterator[dict[str, Any]]:
    yield {
        **{"method": r["method"], "features": r.get("features")},
        **{"s a fit": r.get("fit_seconds"), "images": r.get("images")},
        **{
            f"ms an image of {call['batch_size']}": call["ms_per_image"]
            for call in r["calls"]
            if "failed" not in call
        },
        "s to compile": r.get("compile_seconds"),
        "GB held at most": _gigabytes(r.get("peak_bytes_in_use")),
    }


def _phases(r: Record) -> Iterator[dict[str, Any]]:
    if "calls" in r:
        yield from _features(r)
        return
    steps = {
        f"{key.partition('_ms')[0]}, ms a step of all": value
        for key, value in r.items()
        if key.endswith("_ms_per_step_of_all")
    }
    yield {"method": r["method"], "members by vmap": r["members"], **steps, **_compiled(r)}


def _compiled(r: Record) -> dict[str, Any]:
    return {
        "s to compile": r.get("compile_seconds"),
        "GB of the program": _gigabytes(r.get("temp_bytes")),
    }


def _gigabytes(n: float | None) -> float | None:
    return None if n is None else n / 1e9


_ROWS: dict[str, Callable[[Record], Iterator[dict[str, Any]]]] = {
    **{"numbers": _numbers, "trained": _numbers, "inference": _inference},
    **{"training": _training, "members": _members, "features": _features, "phases": _phases},
}
