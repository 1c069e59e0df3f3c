"""The flags of the experiments, in one record, checked before any work starts."""

from __future__ import annotations

import dataclasses
import errno
import io
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from cae_jax import data, models
from cae_jax.data import synthetic
from cae_jax.evaluation import segmentation
from cae_jax.methods import losses
from cae_jax.methods.autoencoder import PRECISIONS
from cae_jax.scoring import patches, residuals
from cae_jax.scoring.residuals import Residual
from cae_jax.scoring.ssim import BORDERS, CONSTANTS, WEIGHTS, Ssim
from cae_jax.training import crops
from cae_jax.training.members import STRATEGIES
from cae_jax.types import CaeError, UsageError, unknown_name

PRESETS = Path(__file__).resolve().parents[2] / "experiments" / "presets"
SCORING = (  # what a trained model can be judged by anew
    *("distance", "residual_average", "residual_smooth", "residual_border"),
    *("image_score", "top_share", "minimum_area", "opening", "save_maps"),
)
_FROM_TEXT = {"true": True, "false": False}
_KINDS = {  # what absl's messages hold, and what is expected
    "invalid literal for int": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument": "true or false",
}
_AUGMENT = (*crops.KINDS, "auto")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

flags.disclaim_key_flags()  # they belong to the experiment that calls `define`: its --help


def _flag(
    default: object,
    help_text: str,
    low: float | None = None,
    high: float | None = None,
    among: Sequence[str] = (),
):
    """A field that is a flag: its help, and the range its value must lie in or its choices."""
    told = all(name in help_text for name in among)  # each with what it means
    help_text += "" if told else f": {', '.join(among)}"
    about = {"help": help_text, "low": low, "high": high, "among": tuple(among)}
    return dataclasses.field(default=default, metadata=about)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run: every field is the flag of its name."""

    dataset: str = _flag("synthetic", "where images come from", among=data.DATASETS)
    data_dir: str = _flag("", "folder: the parent of the categories; mvtec_ad: the TFDS folder")
    category: str = _flag("all", "a category, several with commas, or all")
    model: str = _flag("bergmann", "a built-in model or package.module[:Name] of your own")
    model_options: str = _flag("", "the model's own options: name=value, several with commas")
    loss: str = _flag("l2", "what training minimises", among=losses.NAMES)
    epochs: int = _flag(200, "passes over the training patches", 1)
    batch_size: int = _flag(128, "patches per training step", 1)
    learning_rate: float = _flag(2e-4, "of Adam", 0)
    weight_decay: float = _flag(1e-5, "L2 added to the gradient", 0)
    decoupled_weight_decay: bool = _flag(False, "AdamW's weight decay instead of L2")
    num_patches: int = _flag(10_000, "training crops per epoch", 1)
    redraw_patches: bool = _flag(False, "draw new crops every epoch, not the same as the thesis")
    augment: str = _flag("none", "of crops; auto: by MVTec category", among=_AUGMENT)
    whole_image: bool = _flag(False, "one patch, the whole image (CVPR 2019's objects)")
    image_size: int = _flag(256, "side that images are resized to, in pixels", 8, 8192)
    patch_size: int = _flag(128, "side of a patch, in pixels", 8)
    stride: int = _flag(30, "pixels between the patches of a test image", 1)
    channels: int = _flag(1, "1: gray, 3: RGB")
    validation_fraction: float = _flag(0.1, "share of the training images held out", 0, 0.9)
    distance: str = _flag("l2", "what the verdict rests on", among=residuals.DISTANCES)
    residual_average: str = _flag(
        "pixels", "pixels: average patches (thesis); maps: their errors", among=residuals.AVERAGES
    )
    residual_smooth: float = _flag(0.0, "sigma of a Gaussian over residual maps, in pixels", 0, 64)
    residual_border: str = _flag(
        "reflect", "at the image's border: reflect, edge or crop", among=tuple(BORDERS)
    )
    image_score: str = _flag(
        "sum", "a map as one number; top: mean of the top share", among=residuals.REDUCTIONS
    )
    top_share: float = _flag(0.01, "share of the pixels that image_score=top averages", 0, 1)
    ssim_window: int = _flag(11, "side of SSIM's window, in pixels", 3, 255)
    ssim_weights: str = _flag("gaussian", "SSIM's window", among=WEIGHTS)
    ssim_constants: str = _flag(
        "wang", "wang: (0.01)^2, (0.03)^2; printed: 0.01, 0.03", among=tuple(CONSTANTS)
    )
    minimum_area: int = _flag(0, "smallest defect, in pixels; 0: a share of the image", 0)
    opening: int = _flag(4, "diameter of the disc that opens a segmentation; 0: none", 0, 64)
    seed: int = _flag(0, "decides crops, order, parameters, validation split", 0, 2**31 - 1)
    on_bad_image: str = _flag("error", "stop, or skip it and list it", among=("error", "skip"))
    precision: str = _flag("float32", "of products and sums", among=PRECISIONS)
    members: str = _flag(
        "auto", "categories x seeds together; auto: by device", among=(*STRATEGIES, "auto")
    )
    checkpoint_every: int = _flag(1, "epochs between checkpoints", 1)
    keep: int = _flag(2, "checkpoints kept: the last ones; besides, the one of the lowest loss", 1)
    save_maps: bool = _flag(False, "also write every test image's residual map and mask")
    workdir: str = _flag("", "where everything is written; runs/DATASET when empty")
    overwrite: bool = _flag(False, "replace what another run left in the workdir")

    def check(self) -> None:
        """Raises UsageError for the first flag that cannot work, alone or with the others."""
        for field in dataclasses.fields(self):
            check_value(field.name, getattr(self, field.name))
        losses.loss(self.loss, self.residual().ssim)
        residuals.check(self.residual())
        self._check_data()
        self._check_sizes()
        self.options()

    def _check_data(self) -> None:
        """Raises UsageError where flags say different things of the images."""
        if self.dataset == "synthetic":
            if self.data_dir:
                raise UsageError(
                    f"--data_dir={self.data_dir}: --dataset=synthetic is drawn, not read; for "
                    "images of your own add --dataset=folder"
                )
            if self.image_size < synthetic.MIN_SIZE:
                raise UsageError(
                    f"--image_size={self.image_size}: synthetic needs {synthetic.MIN_SIZE} or more"
                )
        elif self.data_dir and os.path.realpath(self.folder) == os.path.realpath(self.data_dir):
            raise UsageError(f"--workdir={self.workdir}: is --data_dir itself; take another one")

    def _check_sizes(self) -> None:
        """Raises UsageError where sizes do not go together."""
        if self.batch_size > self.num_patches:
            raise UsageError(
                f"--batch_size={self.batch_size} is larger than --num_patches={self.num_patches}: "
                "an epoch would have no step"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = self.whole_image and field.name in ("patch_size", "stride")
            if whole and value not in (field.default, self.image_size):
                raise UsageError(
                    f"--{field.name}={value}: --whole_image takes one patch of "
                    f"--image_size={self.image_size}; leave out one of the two"
                )
        sizes = self.resolved()
        patches.check_sizes(sizes.image_size, sizes.patch_size, sizes.stride)
        if self.minimum_area > self.image_size**2:
            raise UsageError(
                f"--minimum_area={self.minimum_area}: must be at most the image's "
                f"{self.image_size**2} pixels"
            )
        if self.residual_border == "crop" and self.ssim_window > self.image_size:
            raise UsageError(
                f"--ssim_window={self.ssim_window}: --residual_border=crop would leave nothing of "
                f"images of --image_size={self.image_size}"
            )

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories asked for, not yet resolved."""
        return tuple(name.strip() for name in self.category.split(",") if name.strip())

    @property
    def folder(self) -> Path:
        """The workdir as a path."""
        return Path(self.workdir or f"runs/{self.dataset}").expanduser()

    @property
    def smallest_defect(self) -> int:
        """The minimum area of a defect, in pixels."""
        return self.minimum_area or segmentation.default_area(self.image_size**2)

    def resolved(self) -> Config:
        """Returns the record that holds from any working directory, --whole_image worked out."""
        changes = {}
        if self.data_dir:
            changes["data_dir"] = os.path.abspath(os.path.expanduser(self.data_dir))
        if self.whole_image:
            changes |= {"patch_size": self.image_size, "stride": self.image_size}
        return dataclasses.replace(self, **changes)

    def residual(self, all_distances: bool = False) -> Residual:
        """Returns how errors are measured: by the config's distance, or by every one."""
        return Residual(
            residuals.DISTANCES if all_distances else (self.distance,),
            self.residual_average,
            self.residual_smooth,
            self.residual_border,
            self.image_score,
            self.top_share,
            Ssim(self.ssim_window, self.ssim_weights, self.ssim_constants),
        )

    def options(self) -> dict[str, str]:
        """Returns the model's options by name; raises UsageError for one without a value."""
        pairs = [pair.partition("=") for pair in self.model_options.split(",") if pair.strip()]
        for name, equals, value in pairs:
            if not (name.strip() and equals and value.strip()):
                raise UsageError(f"--model_options={self.model_options}: expected name=value")
        found = {name.strip(): value.strip() for name, _, value in pairs}
        if self.whole_image and self.model == "bergmann":  # CVPR 2019: one more convolution
            found.setdefault("whole_image", "true")
        return found

    def build_model(self) -> Any:  # a flax.linen.Module: flax stays in models and methods
        """Returns the Flax module; raises UsageError, see `models.build`."""
        return models.build(self.model, self.channels, self.patch_size, self.options())

    def to_flagfile(self) -> str:
        """Returns the flags as an absl flagfile, one per line, that gives this record again."""
        lines = [f"--{f.name}={_text(getattr(self, f.name))}" for f in dataclasses.fields(self)]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_flagfile(cls, text: str, where: str) -> Config:
        """Reads what `to_flagfile` wrote; raises UsageError naming `where` and the line."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        values = {}
        for line in text.removesuffix("\n").split("\n"):  # a name may hold other line breaks
            name, equals, value = line.removeprefix("--").partition("=")
            if not equals or name not in fields:
                raise UsageError(f"{where}: not a flag of this version: {line!r}")
            kind = type(fields[name].default)
            try:
                values[name] = _FROM_TEXT[value] if kind is bool else kind(value)
            except (ValueError, KeyError) as error:
                raise UsageError(f"{where}: {line!r} is no {kind.__name__}") from error
        return cls(**values)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def names() -> tuple[str, ...]:
    """Returns the flags' names."""
    return tuple(field.name for field in dataclasses.fields(Config))


def check_value(name: str, value: Any) -> None:
    """Raises UsageError where a flag's value cannot work, whatever the others are."""
    about = Config.__dataclass_fields__[name].metadata
    low, high, among = about["low"], about["high"], about["among"]
    if isinstance(value, str) and set(value) & set("\r\n\0"):
        raise UsageError(f"--{name}={value!r}: must be one line")  # of flags.txt
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"--{name}={value}: must be a finite number{_range(name)}")
    if (low is not None and value < low) or (high is not None and value > high):
        raise UsageError(f"--{name}={value}: must be{_range(name).lstrip(',')}")
    if among and value not in among:
        raise unknown_name(f"--{name}", value, among)
    if name == "channels" and value not in (1, 3):
        raise UsageError(f"--channels={value}: must be 1 (gray) or 3 (RGB)")


def _range(name: str) -> str:
    """Returns ", at least 1" or ", from 0 to 64" for a flag of a range, "" for any other."""
    field = Config.__dataclass_fields__.get(name)
    low, high = (field.metadata["low"], field.metadata["high"]) if field else (None, None)
    if low is None:
        return ""
    return f", at least {low}" if high is None else f", from {low} to {high}"


def define(names: Sequence[str] | None = None) -> None:
    """Defines the flags named, or all of `Config`, with absl."""
    makers = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for field in dataclasses.fields(Config):
        if names is None or field.name in names:
            makers[type(field.default)](field.name, field.default, field.metadata["help"])


def from_flags(defined: Sequence[str] | None = None) -> Config:
    """Returns the record of the parsed flags, checked; raises UsageError.

    `defined` is what `define` was given; a flag that is not among them keeps its default.
    """
    config = Config(**{name: flags.FLAGS[name].value for name in defined or names()})
    config.check()
    return config


def main(run: Callable[[], None], default_preset: str | None = None) -> None:
    """Runs an experiment under absl; what the user can mend becomes one line and an exit code.

    Args:
      run: the experiment.
      default_preset: a flagfile of experiments/presets, for what the command line leaves open,
        when it names neither a data set nor a flagfile of its own.

    Exit codes: 0, 2 for a flag that cannot work, 1 for everything else, 130 after Ctrl-C, 143
    after SIGTERM.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        given = [word.lstrip("-").partition("=")[0] for word in argv[1:]]
        if default_preset and not {"dataset", "flagfile", "help", "helpfull"} & set(given):
            preset = PRESETS / default_preset
            print(f"no --dataset given: flags from {preset.name}", file=sys.stderr)
            argv = [argv[0], f"--flagfile={preset}", *argv[1:]]
        try:
            rest = flags.FLAGS(argv)
            _check_alone()
        except flags.Error as error:
            _leave(_plainly(str(error)), UsageError.exit_code)
        except UsageError as error:
            _leave(str(error), error.exit_code)
        except SystemExit:  # of --help, which absl ends with 1
            sys.exit(0)
        if len(rest) > 1:
            _leave(f"not a flag: {rest[1]!r} (flags are --name=value)", UsageError.exit_code)
        return rest

    def guarded(_: Sequence[str]) -> None:
        logging.set_verbosity(logging.FATAL)  # orbax tells a story of what it also raises
        signal.signal(signal.SIGTERM, _terminate)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be text
        try:
            run()
        except CaeError as error:
            _leave(str(error), error.exit_code)
        except OSError as error:
            full = error.errno in _FULL_DISK
            hint = "no space left; what was written before is whole" if full else error.strerror
            _leave(f"{error.filename or 'writing'}: {hint or error}", 1)
        except KeyboardInterrupt as stop:
            word, code = ("terminated", 143) if stop.args else ("interrupted", 130)
            _leave(f"{word}; the same command goes on from the last checkpoint", code)

    app.run(guarded, flags_parser=parse)


def _terminate(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def _check_alone() -> None:
    """Raises UsageError for a flag of `define` out of its range, whether it is used or not."""
    for field in dataclasses.fields(Config):
        # a binary may have a flag of its own by such a name, with another help
        if field.name in flags.FLAGS and flags.FLAGS[field.name].help == field.metadata["help"]:
            check_value(field.name, flags.FLAGS[field.name].value)


def _plainly(message: str) -> str:
    """What absl says of a flag, in the words of `check_value`."""
    if message.startswith("Unknown command line flag") and "Did you mean" not in message:
        return f"{message.rstrip('. ')}: --help lists the flags"
    found = re.match(r"flag --(\w+)=(.*?): (.*)", message, re.DOTALL)
    if not found:
        return message
    name, value, cause = found.groups()
    for theirs, ours in _KINDS.items():
        if theirs in cause:
            return f"--{name}={value}: must be {ours}{_range(name)}"
    return f"--{name}={value}: {cause}"


def _leave(message: str, code: int) -> None:
    print("error: " + " ".join(message.split("\n")), file=sys.stderr)
    sys.exit(code)
