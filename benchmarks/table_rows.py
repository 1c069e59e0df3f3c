"""The rows of a table from the record of a benchmark: columns by name, numbers as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

_OF_PATCHES = {  # what a method that does not work by patches lacks, or one without a network
    "share of peak": "share_of_peak",
    "extract, merge, distance, share": "around_the_network_share",
}
_LEARNING = {  # of a method that learns in one pass, or by steps: seconds, processor seconds
    "s a fit": ("fit_seconds", "fit_processor_seconds"),
    "ms a step": ("step_ms", "step_processor_ms"),
}


def inference(r: dict[str, Any]) -> list[dict[str, Any]]:
    """A batch size of `benchmarks.inference`."""
    row = {"model": r["model"], "instructions": _instructions(r), "images": r["batch_size"]}
    row |= {f"{p}, ms an image": round(r[f"{p}_ms_per_image"]) for p in ("p50", "p95")}
    row |= {"images/s": r["images_per_second"]}
    for title, key in _OF_PATCHES.items():
        row |= {title: r[key]} if key in r else {}
    return [row | {f"{name} / ours": ratio for name, ratio in r["ratio"].items()}]


def _instructions(r: dict[str, Any]) -> str:
    """AVX2 where XLA and the engines were told to take no others, else what they choose."""
    return "AVX2" if "max_isa=AVX2" in r["environment"].get("XLA_FLAGS", "") else "all"


def training(r: dict[str, Any]) -> list[dict[str, Any]]:
    """`benchmarks.training`."""
    row = {"model": r["model"], "instructions": _instructions(r)}
    row |= {"ms a step of 128": round(r["p50_ms_per_step"])}
    row |= {"patches/s": r["patches_per_second"], "s an epoch": r["seconds_per_epoch"]}
    row |= {"h per 200 epochs": r["seconds_per_200_epochs"] / 3600}
    row |= {"share of peak": r["share_of_peak"]} if "share_of_peak" in r else {}
    return [row | {f"{name} / ours": ratio for name, ratio in r["ratio"].items()}]


def fit(r: dict[str, Any]) -> list[dict[str, Any]]:
    """`benchmarks.fit`."""
    row = {"method": r["method"], "images": r["images"], "side": r["image_size"]}
    row |= {"s a fit": r["p50_seconds"], "s to compile": r["compile_seconds"]}
    return [row | {"MB learned": r["learned_mb"], "peak memory, MB": round(r["peak_memory_mb"])}]


def methods(r: dict[str, Any]) -> list[dict[str, Any]]:
    """A method of `benchmarks.methods`."""
    row = {"method": r["method"], "features or model": r["model"], "side": r["image_size"]}
    row |= {"channels": r["channels"]}
    row |= {"processor s to compile": round(r["scoring"][0]["compile_processor_seconds"], 1)}
    for one in r["scoring"]:
        both = (one["ms_per_image"], one["processor_ms_per_image"])
        row[f"ms an image of {one['batch_size']}"] = _pair(both, ".3g")
    for title, keys in _LEARNING.items():
        row[title] = _pair((r[key] for key in keys), ".3g") if keys[0] in r else ""
    row |= {"images or crops": r["learned_from"], "MB learned": r["learned_mb"]}
    load = " to ".join(f"{each:.1f}" for each in r["load"])
    return [row | {"peak memory, MB": round(r["peak_memory_mb"]), "load": load}]


def methods_beside(r: dict[str, Any]) -> list[dict[str, Any]]:
    """A method of `benchmarks.methods --against=...`: our milliseconds and their time over ours."""
    if not any(one.get("ratio") for one in r["scoring"]):
        return []
    row = {"method": r["method"], "features or model": r["model"]}
    engines = dict.fromkeys(name for one in r["scoring"] for name in one["ratio"])
    for one in r["scoring"]:
        n = one["batch_size"]
        row[f"ours, ms an image of {n}"] = f"{one['ms_per_image']:.3g}"
        row |= {f"{name} / ours, {n}": one["ratio"].get(name, "") for name in engines}
    errors = [
        off for one in r["scoring"] for each in one["errors"].values() for off in each.values()
    ]
    return [row | {"largest difference": f"{max(errors):.1e}"}]


def learning(r: dict[str, Any]) -> list[dict[str, Any]]:
    """`benchmarks.learning`."""
    ours, theirs = r["milliseconds"].values()
    row = {"method": r["method"], "what": r["what"], "beside": r["engine"]}
    row |= {"ours, ms": f"{ours:.3g}", "theirs, ms": f"{theirs:.3g}"}
    row |= {"theirs / ours": r["ratio"][r["engine"]], "compared": r["compared"]}
    return [row | {"largest difference": f"{r['apart']:.1e}"}]


def latent_search(r: dict[str, Any]) -> list[dict[str, Any]]:
    """`benchmarks.latent_search`."""
    row = {"patches": r["patches"], "side": r["patch_size"], "width": r["width"]}
    row |= {"steps": r["steps"], "s a search": r["p50_seconds"]}
    return [row | {f"{name} / ours": ratio for name, ratio in r["ratio"].items()}]


def members(r: dict[str, Any]) -> list[dict[str, Any]]:
    """`benchmarks.members`."""
    row = {"model": r["model"], "members": r["num_members"], "batch": r["batch_size"]}
    row |= {f"{name}, ms a step of all": ms for name, ms in r["ms_per_step_of_all"].items()}
    return [row | {"default": r["default"]}]


def scaling(r: dict[str, Any]) -> list[dict[str, Any]]:
    """The numbers of devices of `benchmarks.scaling`."""
    return [{"model": r["model"], "members": r["num_members"]} | row for row in r["rows"]]


def precision(r: dict[str, Any]) -> list[dict[str, Any]]:
    """The precisions of `benchmarks.precision`."""
    return [{"category": r["category"], "model": r["model"]} | mode for mode in r["modes"]]


def scoring(r: dict[str, Any]) -> list[dict[str, Any]]:
    """The folders of `benchmarks.scoring`."""
    given = {"model": r["model"], "patches an image": r["patches_per_image"]}
    return [
        given
        | {"images": one["n_images"], "peak memory, MB": round(one["peak_memory_mb"])}
        | {f"{name}, images/s": speed for name, speed in one["images_per_second"].items()}
        for one in r["folders"]
    ]


def ray_scoring(r: dict[str, Any]) -> list[dict[str, Any]]:
    """The numbers of workers of `benchmarks.ray_scoring`."""
    given = {"model": r["model"], "images": r["number"]}
    return [given | row for row in r["rows"]]


def beside(r: dict[str, Any]) -> list[dict[str, Any]]:
    """A method and category of `benchmarks.beside`: ours, theirs."""
    row = {"method": r["method"], "category": r["category"], "images": r["n_train"]}
    for what in ("image_auroc", "pixel_auroc"):
        both = (value for name, value in r[what].items() if name != "difference")
        row[what.replace("_", " ").replace("auroc", "AUROC")] = _pair(both, ".3f")
    row["rank correlation"] = r["rank_correlation"]
    row["largest difference, same settings"] = max(r["same"].values())
    row["s a first fit"] = _pair(r["first_fit_seconds"].values(), ".3g")
    row["s a fit"] = _pair(r["fit"]["seconds"].values(), ".3g")
    row["theirs / ours"] = r["fit"]["ratio"]
    for one in r["scoring"]:
        batch = one["batch_size"]
        each = [1e3 * seconds / batch for seconds in one["seconds"].values()]
        row[f"ms an image of {batch}"] = _pair(each, ".3g")
        row[f"theirs / ours, {batch}"] = one["ratio"]
    return [row]


def exports(r: dict[str, Any]) -> list[dict[str, Any]]:
    """A run of `benchmarks.exports`."""
    row = {"method": r["method"], "model": r["model"], "side": r["side"], "scores": r["scores"]}
    row |= {f"{form}, score off by": f"{e:.1e}" for form, e in r["score_error"].items()}
    row |= {"verdicts": "the same" if r["verdicts_same"] else "not the same"}
    for n, took in r["ms_per_image"].items():
        row |= {f"{name}, ms of {n}": round(ms, 1) for name, ms in took.items()}
    return [row | {f"{form}, MB": size for form, size in r["megabytes"].items()}]


def programs(r: dict[str, Any]) -> list[dict[str, Any]]:
    """The programs of a run of `benchmarks.programs`, those that take longest first."""
    return [
        {"run": r["run"], "side": r["image_size"], "program": each["name"], "times": each["times"]}
        | {"s to compile": each["seconds"]}
        for each in r["programs"]
    ]


def start(r: dict[str, Any]) -> list[dict[str, Any]]:
    """The waits of `benchmarks.start`."""
    return [
        {"what": row["what"], "s": row["p50_seconds"], "processor s": row["p50_processor_seconds"]}
        for row in r["rows"]
    ]


def compilation(r: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls of `benchmarks.compilation`."""
    return [
        {"call": name, "operations / reference": round(count, 1)}
        | {"s to compile / reference": round(r["seconds"][name], 1) if name in r["seconds"] else ""}
        for name, count in r["operations"].items()
    ]


def _pair(both: Iterable[float], form: str) -> str:
    return " / ".join(format(value, form) for value in both)


class Table(NamedTuple):
    """A table of the page."""

    title: str
    rows_of: Callable[[dict[str, Any]], list[dict[str, Any]]]  # of a record
    stem: str = ""  # how the names of its files begin; "": as the title


def _named(*rows_of: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> tuple[Table, ...]:
    return tuple(Table(each.__name__, each) for each in rows_of)


# of the page, in order: what stands together, and its tables
GROUPS = {
    "Every method beside other engines": (
        Table("scoring, every method", methods_beside, "methods"),
        Table("learning", learning),
    ),
    "Some of them, closer": _named(inference, training, latent_search, beside, exports),
    "What a method costs": _named(methods, fit),
    "More of it: members, devices, images": _named(members, scaling, scoring, ray_scoring),
    "Precision": _named(precision),
    "Before the first result": _named(start, programs, compilation),
}
