"""The flags: their names and defaults, what is refused, and the way to a flagfile and back."""

import math
import signal
import sys

import jax
import pytest
from absl import flags

from cae_jax import methods, options
from cae_jax.runs import command_line, config, presets
from cae_jax.runs.config import Config, configure
from cae_jax.types import UsageError, WeightsError

# Another value than the default for every flag, fit to work with the others.
OTHER = {
    "dataset": "folder",
    "data_dir": "/data/with=equals and blank",
    "category": "screw, hazelnut",
    "resize": "pad",
    "roi": "1,2,30,40",
    "ignore": "/data/ignore.png",
    "tile": 64,
    "tile_overlap": 16,
    "layout": "mvtec_loco",
    "good_name": "Gut",
    "mask_pattern": "{stem}_seg",
    "test_fraction": 0.25,
    "method": "autoencoder",  # the others are tested by their own flags
    "model": "fork.net:Net",
    "model_options": "decoder=mirror,width=3",
    "code": 9,
    "corruption": "masking",
    "corruption_strength": 0.4,
    "epochs": 7,
    "batch_size": 12,
    "learning_rate": 1e-05 / 3,
    "weight_decay": 0.0,
    "decoupled_weight_decay": True,
    "num_patches": 345,
    "redraw_patches": True,
    "joint": True,
    "image_size": 200,
    "patch_size": 200,
    "stride": 200,
    "channels": 3,
    "bit_depth": "12",
    "background": "#00b140",
    "mask_ground": "white",
    "train_images": 17,
    "intensity": "mean_std",
    "validation_fraction": 0.25,
    "folds": 7,
    "seed": 2**31 - 1,
    "images_in": "disk",
    "on_bad_image": "skip",
    "loss": "ms_ssim_l1",
    "augment": "object_mirror",
    "whole_image": True,
    "distance": "ssim",
    "residual_average": "maps",
    "residual_smooth": 1.5,
    "residual_border": "edge",
    "image_score": "top",
    "top_share": 0.02,
    "ssim_window": 7,
    "ssim_weights": "flat",
    "ssim_constants": "printed",
    "minimum_area": 40,
    "false_alarms": 0.03,
    "threshold": "percent:95",
    "checkpoint": "best",
    "csv": "excel",
    "opening": 0,
    "precision": "bfloat16",
    "members": "unroll",
    "checkpoint_every": 4,
    "log_to": "jsonl",
    "early_stopping": 3,
    "schedule": "cosine_decay",
    "schedule_options": "alpha=0.1,exponent=2",
    "gradient_clip": 1.5,
    "ema": 0.99,
    "keep": 5,
    "save_maps": True,
    "workdir": "~/runs/é",
    "overwrite": True,
}


FIELDS = config.flags_of("autoencoder")


EVERY = {f"{m}-{n}": f for m in methods.names() for n, f in config.flags_of(m).items()}


@pytest.mark.parametrize("field", EVERY.values(), ids=EVERY)
def test_every_range_ends_where_it_says(field):
    """A little beyond either end is refused by the flag's name, value and range."""
    low, high, among = (field.metadata[key] for key in ("low", "high", "among"))
    step = 1 if isinstance(field.default, int) else 1e-9
    for end, sign in ((low, -1), (high, 1)):
        if end is None:
            continue
        options.check_value(field, type(field.default)(end))
        value = end + sign * step
        with pytest.raises(UsageError) as caught:
            options.check_value(field, value)
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        assert str(caught.value) == f"--{field.name}={value}: must be {limits}"
    for name in among:
        assert str(name) in field.metadata["help"]
        options.check_value(field, name)
        if isinstance(name, int):
            with pytest.raises(UsageError, match=rf"--{field.name}=-5: must be .*\b{name}\b"):
                options.check_value(field, -5)
            continue
        with pytest.raises(UsageError, match=f"did you mean .*{name}.*known: .*{name}"):
            options.check_value(field, name + "x")
    if isinstance(field.default, float):
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(UsageError, match=f"--{field.name}={value}: must be a finite"):
                options.check_value(field, value)


@pytest.fixture
def absl_flags():
    """The process's flags; those that a test defines are taken away again."""
    before, ours = set(flags.FLAGS), dict(command_line._defined)
    yield flags.FLAGS
    command_line._defined.clear()
    command_line._defined.update(ours)
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def test_defaults_are_the_thesis_s():
    wanted = {
        "model": "bergmann",
        "epochs": 200,
        "batch_size": 128,
        "learning_rate": 2e-4,
        "weight_decay": 1e-5,
        "num_patches": 10_000,
        "image_size": 256,
        "patch_size": 128,
        "stride": 30,
        "channels": 1,
        "train_images": 0,
        "validation_fraction": 0.1,
        "seed": 0,
        "on_bad_image": "error",
    }
    flags = configure().flags()
    assert {name: flags[name] for name in wanted} == wanted
    assert configure().resolved().distance == "l2"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, ["--epochs=0", "at least 1"]),
        ({"batch_size": 0}, ["--batch_size=0", "at least 1"]),
        ({"num_patches": -5, "batch_size": 1}, ["--num_patches=-5"]),
        ({"learning_rate": -1e-9}, ["--learning_rate=-1e-09", "at least 0"]),
        ({"learning_rate": math.nan}, ["--learning_rate=nan"]),
        ({"learning_rate": math.inf}, ["--learning_rate=inf"]),
        ({"weight_decay": -1.0}, ["--weight_decay=-1.0"]),
        ({"image_size": 8193}, ["--image_size=8193", "8192"]),
        ({"image_size": 127}, ["--patch_size=128", "--image_size=127"]),
        ({"patch_size": 7}, ["--patch_size=7"]),
        ({"patch_size": 257}, ["--patch_size=257", "--image_size=256"]),
        ({"stride": 0}, ["--stride=0"]),
        ({"stride": 129}, ["--stride=129", "--patch_size=128"]),
        ({"channels": 2}, ["--channels=2", "1", "3"]),
        ({"validation_fraction": math.nan}, ["--validation_fraction=nan"]),
        ({"validation_fraction": -0.1}, ["--validation_fraction=-0.1"]),
        ({"validation_fraction": 0.91}, ["--validation_fraction=0.91", "0.9"]),
        ({"seed": -1}, ["--seed=-1"]),
        ({"seed": 2**31}, ["--seed=2147483648"]),
        ({"batch_size": 33, "num_patches": 32}, ["--batch_size=33", "--num_patches=32"]),
        ({"dataset": "foldr"}, ["--dataset", "'foldr'", "did you mean folder"]),
        ({"dataset": "zzz"}, ["folder, mvtec_ad, synthetic"]),
        ({"on_bad_image": "skp"}, ["--on_bad_image", "did you mean skip"]),
        ({"workdir": "a\nb"}, ["--workdir='a\\nb'", "one line"]),
        (
            {"workdir": "w\udcff"},
            ["--workdir=/", "w\udcff: the name is not UTF-8; rename the folder"],
        ),
        ({"data_dir": "x"}, ["--data_dir=x", "--dataset=folder"]),
        ({"dataset": "folder", "data_dir": "x", "workdir": "y/../x"}, ["--workdir=y/../x"]),
        ({"whole_image": True, "stride": 16}, ["--stride=16", "--whole_image", "=256"]),
        ({"model_options": "a"}, ["--model_options=a", "name=value"]),
    ],
)
def test_what_cannot_work_is_refused(changes, words):
    with pytest.raises(UsageError) as caught:
        configure(**changes).resolved()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_the_limits_themselves_are_taken():
    configure(stride=128).resolved()
    configure(patch_size=256, stride=256, batch_size=5, num_patches=5).resolved()
    configure(learning_rate=0.0, validation_fraction=0.9, seed=2**31 - 1, channels=3).resolved()
    configure(residual_border="crop", ssim_window=255, minimum_area=256**2).resolved()


def test_a_whole_image_is_as_large_as_the_image():
    config = configure(whole_image=True, image_size=64)  # smaller than the default patch
    found = config.resolved().options
    assert (found.patch_size, found.stride) == (64, 64)
    assert config.resolved().resolved() == config.resolved()


def test_every_flag_goes_to_a_flagfile_and_back():
    assert set(OTHER) == set(FIELDS)
    same = [name for name, field in FIELDS.items() if OTHER[name] == field.default]
    assert same == ["method"]
    for record in (configure(), configure(**OTHER)):
        assert Config.from_flagfile(record.to_flagfile(), "flags.txt") == record


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--epochs=3\n--epoch=3\n", "flags.txt: not a flag of this version: '--epoch=3'"),
        ("--epochs\n", "flags.txt: not a flag of this version"),
        ("--epochs=three\n", "flags.txt: '--epochs=three' is no int"),
        ("--overwrite=maybe\n", "flags.txt: '--overwrite=maybe' is no bool"),
    ],
)
def test_a_damaged_flagfile_is_named(text, words):
    with pytest.raises(UsageError, match=words):
        Config.from_flagfile(text, "flags.txt")


def parsed(monkeypatch, *words, **how):
    """What a binary is given by these words."""
    found = []
    monkeypatch.setattr(sys, "argv", ["program", *words])
    with pytest.raises(SystemExit) as left:
        command_line.main(lambda: found.append(command_line.given()), **how)
    assert left.value.code in (None, 0)
    return found[0]


def test_absl_reads_the_flagfile_to_the_same_record(absl_flags, tmp_path, monkeypatch):
    path = tmp_path / "flags.txt"
    path.write_text(configure(**OTHER).to_flagfile(), encoding="utf-8")
    assert parsed(monkeypatch, f"--flagfile={path}") == configure(**OTHER)


def test_the_command_line_counts_beside_a_flagfile(absl_flags, tmp_path, monkeypatch):
    path = tmp_path / "flags.txt"
    path.write_text(configure(**OTHER).to_flagfile(), encoding="utf-8")
    found = parsed(monkeypatch, f"--flagfile={path}", "--epochs=9", "--nooverwrite")
    assert found == configure(**(OTHER | {"epochs": 9, "overwrite": False}))


def test_without_flags_the_defaults_hold(absl_flags, monkeypatch):
    assert parsed(monkeypatch) == configure()


def test_only_the_flags_asked_for_are_defined(absl_flags, monkeypatch):
    before = set(absl_flags)
    parsed(monkeypatch, names=["workdir", "data_dir"])
    assert set(absl_flags) - before == {"workdir", "data_dir"}


PRESETS = sorted(path.name for path in presets.FOLDER.glob("*.flags"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_work_and_open_with_their_command(absl_flags, monkeypatch, name):
    path = presets.FOLDER / name
    assert path.read_text().startswith("#")
    command = path.read_text().partition("python -m experiments.")[2].split()[0]
    if command != "run":
        pytest.skip(f"of experiments.{command}, which has flags of its own")
    read = parsed(monkeypatch, f"--flagfile={path}")
    if name == "feature_dictionary_paper.flags":  # its weights are a file of one's own
        with pytest.raises(WeightsError, match="resnet18: name a file"):
            read.build()
    else:
        read.build()
    if name == "thesis.flags":
        assert read.resolved() == configure().resolved()
    if name == "quickstart.flags":
        assert read.dataset == "synthetic"
        assert read.options.epochs < 200


@pytest.mark.parametrize("name", methods.names())
def test_every_methods_flags_go_to_a_flagfile_and_back(name):
    for record in (configure(method=name), configure(method=name, workdir="x", seed=3).resolved()):
        assert Config.from_flagfile(record.to_flagfile(), "flags.txt") == record


def test_a_method_s_own_default_of_a_shared_flag_holds_in_both_records():
    found = configure(method="variation_model")
    assert (found.image_score, found.options.image_score) == ("max", "max")
    found = found.changed(image_score="sum", workdir="x")
    assert (found.image_score, found.options.image_score) == ("sum", "sum")
    other = found.changed(method="autoencoder")
    assert (other.workdir, other.label) == ("x", "bergmann")


def test_the_same_options_build_the_same_method():
    first = configure(patch_size=64, stride=32).resolved()
    assert first.build() is configure(patch_size=64, stride=32, workdir="x").resolved().build()
    assert first.build() is not first.changed(learning_rate=1e-3).build()


def test_options_of_the_model():
    assert configure(model_options=" decoder = mirror,width=3,").options.of_model == {
        "decoder": "mirror",
        "width": "3",
    }
    assert configure().options.of_model == {}
    for text in ("decoder", "decoder=", "=mirror"):
        with pytest.raises(UsageError, match=f"--model_options={text}: expected name=value"):
            _ = configure(model_options=text).options.of_model


def test_categories_and_folder():
    assert configure(category=" a , b,,c").categories == ("a", "b", "c")
    assert str(configure(dataset="folder").folder) == "runs/folder"
    assert configure(workdir="~/x").folder.is_absolute()


def test_the_smallest_defect_is_a_share_of_what_is_inspected_at_once():
    of = [configure(image_size=(2048, 512), tile=tile).smallest_defect for tile in (0, 256)]
    assert of == [2048 * 512 // 2000, 256 * 256 // 2000]
    assert configure(image_size=2048, tile=256, minimum_area=7).smallest_defect == 7


def test_what_the_environment_says_of_jax_changes_no_number(monkeypatch):
    others = {
        **{"jax_enable_x64": True, "jax_disable_jit": True, "jax_threefry_partitionable": False},
        **{"jax_default_prng_impl": "rbg", "jax_random_seed_offset": 7},
        **{"jax_numpy_rank_promotion": "raise", "jax_numpy_dtype_promotion": "strict"},
        "jax_transfer_guard": "log",
    }
    before = {name: jax.config.values[name] for name in others}
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    found = {}
    try:
        for name, value in others.items():
            jax.config.update(name, value)
        command_line._guarded(lambda: found.update(jax.config.values), "")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert not {name for name in others if found[name] == others[name]}
