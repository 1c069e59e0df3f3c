"""Every flag of every command: what a bad value is answered with, before any work starts."""

import os
import re

import pytest
from command_lines import ROOT, run_all

COMMANDS = {
    **{name: name for name in ("run", "evaluate", "report", "describe", "make_synthetic")},
    **{name: name for name in ("reproduce_thesis", "score")},
    **{name: f"benchmarks.{name}" for name in ("inference", "training", "members", "layers")},
    **{name: f"benchmarks.{name}" for name in ("precision", "scoring", "scoring_process")},
}


def number(low, high=None, whole=True):
    """The bad values of a number, and words of what they are answered with."""
    limits = f"at least {low}" if high is None else f"from {low} to {high}"
    bad = {"x1": f"must be a {'whole ' * whole}number, {limits}", f"{low - 1}": f"must be {limits}"}
    if not whole:
        bad |= {word: "must be a finite number" for word in ("nan", "inf", "-inf")}
    if high is not None:
        bad[str(high + 1)] = f"must be {limits}"
    return bad | {"1.5" if whole else "": f"{'whole ' * whole}number"}


def name(bad, near, *among):
    """A name that is nearly right, and one that is like none."""
    known = "known: " + ", ".join(sorted(among)) if among else ""
    return {bad: f"did you mean {near}? {known}", "@": known}


YES_NO = {"maybe": "must be true or false"}
LINE = {"a\nb": "must be one line"}
SSIM_WINDOW = number(3, 255) | {"8": "must be odd and at least 3"}
RULE = {
    "percnt": "did you mean percent? known: conformal, exclusive, f1_best, false_alarms, max",
    "percent:0": "percent takes a whole number of percent from 1 to 100, as in percent:90",
    "conformal:0.6": "conformal takes a rate above 0, at most 0.5, as in conformal:0.1",
    "max:3": "max takes no number",
}
# Flag: {bad value: words of the answer}.
OF_CONFIG = {
    "dataset": name("foldr", "folder", "arrays", "folder", "mvtec_ad", "synthetic", "tfds"),
    "data_dir": LINE | {"{x}": "--dataset=synthetic is drawn, not read"},
    "layout": {"mvtec": "did you mean mvtec_ad", "@": "known: auto, btad"}
    | {"btad": "--layout=btad: only of --dataset=folder"},
    "good_name": LINE | {"Gut": "--good_name=Gut: only of --dataset=folder"},
    "mask_pattern": LINE | {"{stem}_seg": "only of --dataset=folder"},
    "test_fraction": number(0, 0.9, whole=False) | {"0.2": "only of --dataset=folder"},
    "category": LINE | name("weav", "weave", "grain", "tablet", "washer", "weave"),
    "method": {
        "autoencodr": "--method 'autoencodr': did you mean autoencoder or feature_autoencoder?",
        "@": "known: anogan, autoencoder, bigan, distilled, draem",
    },
    "model": LINE | name("bergman", "bergmann", "bergmann", "chow", "gong", "oh_yun"),
    "model_options": LINE
    | {
        "decodr=mirror": "unknown option of bergmann 'decodr': did you mean decoder or code?",
        "a": "expected name=value",
    },
    "code": number(0),
    "corruption": name(
        *("salt", "salt_pepper"), "gaussian", "masking", "none", "patches", "salt_pepper"
    ),
    "corruption_strength": number(0, 1, whole=False)
    | {"0.5": "--corruption=none corrupts nothing"},
    "loss": name(
        "l2_sim",
        "l2_ssim or ms_ssim or ssim",
        "l1",
        "l2",
        "l2_ssim",
        "ms_ssim",
        "ms_ssim_l1",
        "ssim",
    ),
    "epochs": number(1),
    "batch_size": number(1),
    "learning_rate": number(0, whole=False),
    "weight_decay": number(0, whole=False),
    "decoupled_weight_decay": YES_NO,
    "num_patches": number(1),
    "redraw_patches": YES_NO,
    "augment": name("textur", "texture", "auto", "none", "object", "object_mirror", "texture"),
    "whole_image": YES_NO,
    "image_size": {
        **{"x1": "must be a whole number, or two as HEIGHTxWIDTH, from 8 to 8192"},
        **{"7": "must be from 8 to 8192", "64x8193": "=64x8193: must be from 8", "1.5": "two as"},
    },
    "patch_size": number(8),
    "stride": number(1),
    "channels": {"2": "must be 1 or 3 (1: gray, 3: RGB)", "gray": "must be a whole number"},
    "train_images": number(0),
    "validation_fraction": number(0, 0.9, whole=False),
    "folds": number(-1, 1000) | {"1": "must be 0, or at least 2", "2": "learns by steps"},
    "distance": name("sim", "ssim", "l1", "l2", "ssim"),
    "residual_average": name("map", "maps", "maps", "pixels"),
    "residual_smooth": number(0, 64, whole=False),
    "residual_border": name("crp", "crop", "crop", "edge", "reflect"),
    "image_score": name("summ", "sum", "max", "sum", "top"),
    "top_share": number(0, 1, whole=False) | {"0": "above 0 and at most 1"},
    "ssim_window": SSIM_WINDOW,
    "ssim_weights": name("gausian", "gaussian", "flat", "gaussian"),
    "ssim_constants": name("wong", "wang", "printed", "wang"),
    "minimum_area": number(0),
    "false_alarms": number(0, 0.5, whole=False),
    "threshold": RULE,
    "checkpoint": name("lst", "last or best", "best", "last"),
    "opening": number(0, 64),
    "seed": number(0, 2**31 - 1),
    "resize": name("padd", "pad", "crop", "none", "pad", "stretch"),
    "roi": LINE | {"1,2": "must be x,y,width,height in pixels", "no.png": "--dataset=synthetic"},
    "ignore": LINE
    | {"1,2": "must be x,y,width,height in pixels", "no.png": "is drawn at its size"},
    "tile": number(0, 8192) | {"300": "--tile=300: is larger than a side of the image"},
    "tile_overlap": number(0),
    "joint": YES_NO,
    "intensity": name("mean", "median or mean_std", "mean_std", "median", "none"),
    "bit_depth": {"17": "unknown --bit_depth '17'", "twelve": "known: 10, 11, 12, 13, 14, 15"},
    "background": LINE | {"blak": "must be none, or a color", "#12345678": "as white, black or"},
    "mask_ground": name("blck", "black", "auto", "black", "white"),
    "images_in": name("dsk", "disk", "auto", "disk", "memory"),
    "on_bad_image": name("skp", "skip", "error", "skip"),
    "precision": name("float3", "float32 or bfloat16", "bfloat16", "float32", "tf32"),
    "members": name("vmpa", "vmap", "auto", "loop", "unroll", "vmap"),
    "checkpoint_every": number(1),
    "early_stopping": number(0),
    "schedule": name(
        *("cosine_deca", "cosine_decay or warmup_cosine_decay or cosine_onecycle"),
        *("constant", "cosine_decay", "cosine_onecycle", "exponential_decay", "linear"),
        *("piecewise_constant", "polynomial", "warmup_constant", "warmup_cosine_decay"),
    ),
    "schedule_options": LINE
    | {"a": "expected name=value", "alpha=0.1": "--schedule=constant has none"},
    "gradient_clip": number(0, whole=False),
    "ema": number(0, 1, whole=False) | {"1": "must be below 1"},
    "log_to": LINE | name("jsnl", "jsonl", "jsonl", "tensorboard", "wandb"),
    "keep": number(1),
    "csv": name("exel", "excel", "excel", "plain"),
    "save_maps": YES_NO,
    "workdir": LINE,
    "overwrite": YES_NO,
}
COUNT = {"x": "must be a whole number", "0": "at least 1"}
POSITIVE = {"x": "must be a whole number", "0": "positive integer"}
TOGETHER = {
    "coordinator_address": {"host:1": "--num_processes is missing"},
    "num_processes": {"x": "must be a whole number", "2": "--coordinator_address"},
    "process_id": {"x": "must be a whole number", "0": "--coordinator_address"},
}
MEASURED = {"json": None, "repeats": POSITIVE}  # None: any path
COMPARED = MEASURED | {"profile_dir": None, "against": {"torc": "did you mean torch"}}
# Of commands alone, and those that mean something else there than to the others.
OWN = {
    "run": {
        "dry_run": YES_NO,
        "time_steps": {"-1": "range [0, 1000]", "x": "a whole number"},
    },
    "evaluate": {"workdir": {"": "--workdir is needed"}},
    "report": {"workdir": {"": "--workdir is needed"}},
    "describe": {
        "format": name("jsn", "json", "json", "text"),
        "methods": {"gausian": "did you mean gaussian"},
        "every_flag": YES_NO,
    },
    "make_synthetic": {
        "output_dir": {"": "--output_dir is needed"},
        "image_size": {"31": "synthetic needs 32 or more"},
    },
    "reproduce_thesis": TOGETHER
    | {
        "models": {"bergman": "did you mean bergmann", "": "must be one or more"},
        "losses": {"l3": "did you mean l2 or l1? known: l1, l2", "": "must be one or more"},
        "seeds": {"1,x": "whole numbers from 0 on", "2147483648": "--seed=2147483648", "": "from"},
        "methods": {"anogn": "did you mean anogan", "": "must be one or more"},
        "flags_of": {"screw:a=1": "only with --methods"},
        "flags_of_method": {"anogan:a=1": "only with --methods"},
        "flags_of_model": {"gong": "expected MODEL:name=value"},
        "tables_only": YES_NO,
        "tables_dir": None,
        "dry_run": YES_NO,
    },
    "score": TOGETHER
    | {
        "workdir": {"": "--workdir is needed"},
        "images": {"": "--images is needed"},
        "output": {"": "--output is needed"},
        "percent": {"0": "range [1, 100]", "101": "range [1, 100]", "x": "a whole number"},
        "false_alarms": {"-0.1": "range [0, 0.5]", "0.51": "range [0, 0.5]", "x": "a number"},
        "threshold": RULE,
        "checkpoint": {"first": "one of <last|best>"},
        "batch_size": POSITIVE,
        "recursive": YES_NO,
        "pictures": {"-1": "range [0, 1000]", "x": "a whole number"},
        "engine": {"spark": "one of <plain|ray>"},
        "address": {"auto": "--address=auto: not of --engine=plain"},
        "actors": POSITIVE,
        "cpus_per_actor": POSITIVE,
    },
    "inference": COMPARED | {"batch_size": {"1,0": "whole numbers above 0"}},
    "training": COMPARED,
    "members": MEASURED
    | {"num_members": {"1": "1 is not integer >= 2"}, "scan": {"-1": "non-negative"}},
    "layers": MEASURED,
    "precision": MEASURED | {"workdir": {"": "--workdir is needed"}},
    "scoring": {
        "images": {"0": "whole numbers above 0"},
        "size": POSITIVE,
        "batch_size": POSITIVE,
        "json": None,
    },
    "scoring_process": {"folder": None, "images_per_call": POSITIVE},
}
GIVEN = {  # what else a command needs before it looks at a flag
    "evaluate": ["--workdir=x"],
    "report": ["--workdir=x"],
    "make_synthetic": ["--output_dir=x"],
    "score": ["--workdir=x", "--images=x", "--output=x"],
}
# Commands that look at a flag of free text only together with what is on disk or in a model.
LATER = {
    *(("evaluate", flag) for flag in ("data_dir", "distance", "threshold")),
    *(("score", flag) for flag in ("category", "model")),
}


# Flags of `run` that contradict each other: what comes, and words of the answer.
AGAINST = {
    "--batch_size=33 --num_patches=32": "--batch_size=33 is larger than --num_patches=32",
    "--image_size=64 --patch_size=128": "--patch_size=128 is outside 1..64 (--image_size=64)",
    "--patch_size=32 --stride=33": "--stride=33 is outside 1..32 (--patch_size=32)",
    "--patch_size=40 --stride=9": "multiple of 16",
    "--whole_image --patch_size=64": "--patch_size=64: --whole_image takes one patch of --image_si",
    "--whole_image --stride=60": "--stride=60: --whole_image",
    "--image_size=64 --patch_size=32 --minimum_area=4097": "--minimum_area=4097: must be at most",
    "--residual_average=maps --residual_border=crop": "not with --residual_average=maps",
    "--residual_border=crop --ssim_window=255 --image_size=128": "--ssim_window=255: --residual_bo",
    "--image_size=31 --patch_size=16 --stride=16": "--image_size=31: synthetic needs 32 or more",
    "--augment=auto --category=weave": "--augment=auto knows the categories of MVTec AD",
    "--model=chow --model_options=decoder=mirror": "unknown option of chow 'decoder'",
    "--dataset=folder": "--dataset=folder needs --data_dir",
    "--dataset=folder --data_dir={x}/none": "--data_dir={x}/none: no such folder",
    "--dataset=folder --data_dir={x} --workdir={x}": "is --data_dir itself",
    "--folds=5 --method=variation_model --validation_fraction=0.3": "nothing is held out",
    "--false_alarms=0.1 --validation_fraction=0": "--false_alarms=0.1: needs good images",
    "--threshold=conformal:0.1 --validation_fraction=0": "--threshold=conformal:0.1: needs good im",
    "--kappa=1": "--kappa: a flag of --method=f_anogan, not of autoencoder",
    "--noredraw_patches --method=variation_model": "--redraw_patches: a flag of --method=anogan",
    "--method=variation_model --epochs=3": "--epochs: a flag of --method=anogan or ",
    "--method=variation_model --distance=l2": "--distance 'l2': known: deviation, variation",
    "--method=f_anogan --epochs=5 --encoder_epochs=5": "--encoder_epochs=5: must be less than",
    "--method=json": "json has no Options, so it is no method",
    "--method=no.such.file": "--method=no.such.file: cannot import no.such.file",
    "--zzz=1": "Unknown command line flag 'zzz': --help lists the flags",
    "--epoch=3": "Did you mean: epochs",
}


def rows(flags_of):
    """(command, flag, bad value, words): all of `run`'s and of a command's own, else one a flag."""
    found = []
    for command, flags in flags_of.items():
        for flag in flags:
            bad = OWN[command].get(flag, {}) or {}
            if flag not in OWN[command] and flag in OF_CONFIG:
                bad = LINE if (command, flag) in LATER else OF_CONFIG[flag]
                bad = dict(list(bad.items())[: None if command == "run" else 1])
            found += [(command, flag, value, words) for value, words in bad.items()]
    return found


@pytest.fixture(scope="module")
def x(tmp_path_factory):
    return tmp_path_factory.mktemp("flags")


def answer(lines, x):
    where = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return run_all(lines, x, XDG_CACHE_HOME=str(x.with_name("cache")), **where)


@pytest.fixture(scope="module")
def told(x):
    """What --help of every command says, and what contradictions come to."""
    lines = {command: (module, ["--help"], "") for command, module in COMMANDS.items()}
    for line in AGAINST:
        flags = ["--dataset=synthetic", *line.replace("{x}", str(x)).split()]
        lines[line] = "run", flags, ""
    return answer(lines, x)


@pytest.fixture(scope="module")
def flags_of(told):
    """The names of every command's flags."""
    return {c: re.findall(r"^  --(?:\[no\])?(\w+):", told[c][1], re.MULTILINE) for c in COMMANDS}


def test_help_ends_well_and_the_table_knows_every_flag(told, flags_of):
    assert {told[command][0] for command in COMMANDS} == {0}
    assert set(flags_of["run"]) == {*OF_CONFIG, "dry_run", "preset", "time_steps"}
    for command, flags in flags_of.items():
        assert set(flags) <= {*OF_CONFIG, "preset", *OWN[command]}, command
        assert set(OWN[command]) <= set(flags), command


def test_every_bad_value_is_named_with_what_is_expected(x, flags_of):
    lines = {}
    for command, flag, value, _ in rows(flags_of):
        start = ["--dataset=synthetic"] if command == "run" else GIVEN.get(command, [])
        given = [*start, f"--{flag}=" + value.replace("{x}", str(x))]
        lines[f"{command} {flag} {value}"] = COMMANDS[command], given, ""
    answers, faults = answer(lines, x), []
    for command, flag, value, words in rows(flags_of):
        code, out, err = answers[f"{command} {flag} {value}"]
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        last = errors[0] if len(errors) == 1 else err
        shown = value.replace("{x}", str(x))
        shown = repr(shown) if "\n" in shown else shown.split(",")[-1].split("=")[0]
        named = re.search(
            {"model_options": "option", "losses": "loss"}.get(flag, flag.rstrip("s")), last
        )
        if (code, out) != (2, "") or words not in last or shown not in last or not named:
            faults.append(f"{command} --{flag}={value!r}: {code} {last}, wanted {words!r}")
    assert not faults, "\n".join(faults)
    assert len(answers) > 200
    assert list(x.iterdir()) == []


def test_contradictions_are_found_before_work_starts(x, told):
    for line, words in AGAINST.items():
        code, out, err = told[line]
        assert (code, out) == (2, ""), (line, err)
        assert words.replace("{x}", str(x)) in err.splitlines()[-1], (line, err)
    assert list(x.iterdir()) == []
