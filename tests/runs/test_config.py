"""The flags: their names and defaults, what is refused, and the way to a flagfile and back."""

import dataclasses
import math

import pytest
from absl import flags

from cae_jax.runs import config
from cae_jax.runs.config import Config
from cae_jax.types import UsageError

# Another value than the default for every flag, fit to work with the others.
OTHER = {
    "dataset": "folder",
    "data_dir": "/data/with=equals and blank",
    "category": "screw, hazelnut",
    "model": "fork.net:Net",
    "model_options": "decoder=mirror,width=3",
    "epochs": 7,
    "batch_size": 12,
    "learning_rate": 1e-05 / 3,
    "weight_decay": 0.0,
    "decoupled_weight_decay": True,
    "num_patches": 345,
    "redraw_patches": True,
    "image_size": 200,
    "patch_size": 200,
    "stride": 200,
    "channels": 3,
    "validation_fraction": 0.25,
    "seed": 2**31 - 1,
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
    "opening": 0,
    "precision": "bfloat16",
    "members": "unroll",
    "checkpoint_every": 4,
    "keep": 5,
    "save_maps": True,
    "workdir": "~/runs/é",
    "overwrite": True,
}


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda field: field.name)
def test_every_range_ends_where_it_says(field):
    """A little beyond either end is refused by the flag's name, value and range."""
    low, high, among = (field.metadata[key] for key in ("low", "high", "among"))
    step = 1 if isinstance(field.default, int) else 1e-9
    for end, sign in ((low, -1), (high, 1)):
        if end is None:
            continue
        config.check_value(field.name, type(field.default)(end))
        value = end + sign * step
        with pytest.raises(UsageError) as caught:
            config.check_value(field.name, value)
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        assert str(caught.value) == f"--{field.name}={value}: must be {limits}"
    for name in among:
        assert name in field.metadata["help"]
        config.check_value(field.name, name)
        with pytest.raises(UsageError, match=f"did you mean .*{name}.*known: .*{name}"):
            config.check_value(field.name, name + "x")
    if isinstance(field.default, float):
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises(UsageError, match=f"--{field.name}={value}: must be a finite"):
                config.check_value(field.name, value)


@pytest.fixture
def absl_flags():
    """The process's flags; those that a test defines are taken away again."""
    before = set(flags.FLAGS)
    yield flags.FLAGS
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
        "validation_fraction": 0.1,
        "seed": 0,
        "on_bad_image": "error",
    }
    assert {name: getattr(Config(), name) for name in wanted} == wanted
    Config().check()


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
        ({"dataset": "zzz"}, ["known: folder, mvtec_ad, synthetic"]),
        ({"on_bad_image": "skp"}, ["--on_bad_image", "did you mean skip"]),
        ({"workdir": "a\nb"}, ["--workdir='a\\nb'", "one line"]),
        ({"data_dir": "x"}, ["--data_dir=x", "--dataset=folder"]),
        ({"dataset": "folder", "data_dir": "x", "workdir": "y/../x"}, ["--workdir=y/../x"]),
        ({"whole_image": True, "stride": 16}, ["--stride=16", "--whole_image", "=256"]),
        ({"model_options": "a"}, ["--model_options=a", "name=value"]),
    ],
)
def test_what_cannot_work_is_refused(changes, words):
    with pytest.raises(UsageError) as caught:
        Config(**changes).check()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_the_limits_themselves_are_taken():
    Config(stride=128).check()
    Config(patch_size=256, stride=256, batch_size=5, num_patches=5).check()
    Config(learning_rate=0.0, validation_fraction=0.9, seed=2**31 - 1, channels=3).check()
    Config(residual_border="crop", ssim_window=255, minimum_area=256**2).check()


def test_a_whole_image_is_as_large_as_the_image():
    config = Config(whole_image=True, image_size=64)  # smaller than the default patch
    config.check()
    assert (config.resolved().patch_size, config.resolved().stride) == (64, 64)
    config.resolved().check()


def test_every_flag_goes_to_a_flagfile_and_back():
    fields = {field.name: field.default for field in dataclasses.fields(Config)}
    assert set(OTHER) == set(fields)
    assert [name for name in fields if OTHER[name] == fields[name]] == []
    for record in (Config(), Config(**OTHER)):
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


def test_absl_reads_the_flagfile_to_the_same_record(absl_flags, tmp_path):
    path = tmp_path / "flags.txt"
    path.write_text(Config(**OTHER).to_flagfile(), encoding="utf-8")
    config.define()
    absl_flags(["program", f"--flagfile={path}"])
    assert config.from_flags() == Config(**OTHER)
    absl_flags.unparse_flags()
    absl_flags(["program", f"--flagfile={path}", "--epochs=9", "--nooverwrite"])
    assert config.from_flags() == Config(**(OTHER | {"epochs": 9, "overwrite": False}))


def test_without_flags_the_defaults_hold(absl_flags):
    config.define()
    absl_flags(["program"])
    assert config.from_flags() == Config()


def test_the_flags_read_are_checked(absl_flags):
    config.define()
    absl_flags(["program", "--stride=500"])
    with pytest.raises(UsageError, match="--stride=500"):
        config.from_flags()


def test_only_the_flags_asked_for_are_defined(absl_flags):
    before = set(absl_flags)
    config.define(["workdir", "data_dir"])
    assert set(absl_flags) - before == {"workdir", "data_dir"}


@pytest.mark.parametrize("name", sorted(path.name for path in config.PRESETS.glob("*.flags")))
def test_presets_work_and_open_with_their_command(absl_flags, name):
    path = config.PRESETS / name
    assert path.read_text().startswith("#")
    command = path.read_text().partition("python -m experiments.")[2].split()[0]
    if command != "run":
        pytest.skip(f"of experiments.{command}, which has flags of its own")
    config.define()
    absl_flags(["program", f"--flagfile={path}"])
    read = config.from_flags()
    read.build_model()
    if name == "thesis.flags":
        assert read == Config()
    if name == "quickstart.flags":
        assert read.dataset == "synthetic"
        assert read.epochs < 200


def test_options_of_the_model():
    assert Config(model_options=" decoder = mirror,width=3,").options() == {
        "decoder": "mirror",
        "width": "3",
    }
    assert Config().options() == {}
    for text in ("decoder", "decoder=", "=mirror"):
        with pytest.raises(UsageError, match=f"--model_options={text}: expected name=value"):
            Config(model_options=text).options()


def test_categories_and_folder():
    assert Config(category=" a , b,,c").categories == ("a", "b", "c")
    assert str(Config(dataset="folder").folder) == "runs/folder"
    assert Config(workdir="~/x").folder.is_absolute()
