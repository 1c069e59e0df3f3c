"""The flags of the experiments, in one record, checked before any work starts."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from cae_jax import augment, data, losses, models, patches, residuals, segmentation
from cae_jax.members import check_strategy
from cae_jax.methods.autoencoder import PRECISIONS
from cae_jax.residuals import Residual
from cae_jax.ssim import Ssim
from cae_jax.types import CaeError, UsageError, unknown_name

PRESETS = Path(__file__).resolve().parent.parent / "experiments" / "presets"
SCORING = (  # what a trained model can be judged by anew
    *("distance", "residual_average", "residual_smooth", "residual_border"),
    *("image_score", "top_share", "minimum_area", "opening", "save_maps"),
)
_FROM_TEXT = {"true": True, "false": False}
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

flags.disclaim_key_flags()  # they belong to the experiment that calls `define`: its --help


def _flag(default: object, help_text: str, low: float | None = None, high: float | None = None):
    """A field that is a flag: its help, and the range its value must lie in."""
    return dataclasses.field(
        default=default, metadata={"help": help_text, "low": low, "high": high}
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """One run: every field is the flag of its name."""

    dataset: str = _flag("synthetic", "folder, mvtec_ad or synthetic")
    data_dir: str = _flag("", "folder: the parent of the categories; mvtec_ad: the TFDS folder")
    category: str = _flag("all", "a category, several with commas, or all")
    model: str = _flag("bergmann", "a built-in model or package.module[:Name] of your own")
    model_options: str = _flag("", "the model's own options: name=value, several with commas")
    loss: str = _flag("l2", f"what training minimises: {', '.join(losses.NAMES)}")
    epochs: int = _flag(200, "passes over the training patches", 1)
    batch_size: int = _flag(128, "patches per training step", 1)
    learning_rate: float = _flag(2e-4, "of Adam", 0)
    weight_decay: float = _flag(1e-5, "L2 added to the gradient", 0)
    decoupled_weight_decay: bool = _flag(False, "AdamW's weight decay instead of L2")
    num_patches: int = _flag(10_000, "training crops per epoch", 1)
    redraw_patches: bool = _flag(False, "draw new crops every epoch, not the same as the thesis")
    augment: str = _flag("none", "none, texture, object, object_mirror, or auto by MVTec category")
    whole_image: bool = _flag(False, "one patch, the whole image (CVPR 2019's objects)")
    image_size: int = _flag(256, "side that images are resized to, in pixels", 8, 8192)
    patch_size: int = _flag(128, "side of a patch, in pixels", 8)
    stride: int = _flag(30, "pixels between the patches of a test image", 1)
    channels: int = _flag(1, "1: gray, 3: RGB")
    validation_fraction: float = _flag(0.1, "share of the training images held out", 0, 0.9)
    distance: str = _flag("l2", f"what the verdict rests on: {', '.join(residuals.DISTANCES)}")
    residual_average: str = _flag("pixels", "pixels: average patches (thesis); maps: their errors")
    residual_smooth: float = _flag(0.0, "sigma of a Gaussian over residual maps, in pixels", 0, 64)
    residual_border: str = _flag("reflect", "at the image's border: reflect, edge or crop")
    image_score: str = _flag("sum", "a map as one number: sum, max, or top (mean of the top share)")
    top_share: float = _flag(0.01, "share of the pixels that image_score=top averages", 0, 1)
    ssim_window: int = _flag(11, "side of SSIM's window, in pixels", 3, 255)
    ssim_weights: str = _flag("gaussian", "SSIM's window: gaussian or flat")
    ssim_constants: str = _flag("wang", "wang: (0.01)^2, (0.03)^2; printed: 0.01, 0.03")
    minimum_area: int = _flag(0, "smallest defect, in pixels; 0: a share of the image", 0)
    opening: int = _flag(4, "diameter of the disc that opens a segmentation; 0: none", 0, 64)
    seed: int = _flag(0, "decides crops, order, parameters, validation split", 0, 2**31 - 1)
    on_bad_image: str = _flag("error", "error: stop; skip: list it and go on")
    precision: str = _flag("float32", f"of products and sums: {', '.join(PRECISIONS)}")
    members: str = _flag("auto", "categories x seeds together: vmap, unroll, loop; auto: by device")
    checkpoint_every: int = _flag(1, "epochs between checkpoints", 1)
    save_maps: bool = _flag(False, "also write every test image's residual map and mask")
    workdir: str = _flag("", "where everything is written; runs/DATASET when empty")
    overwrite: bool = _flag(False, "replace what another run left in the workdir")

    def check(self) -> None:
        """Raises UsageError for the first flag that cannot work, alone or with the others."""
        for field in dataclasses.fields(self):
            value, low, high = (
                getattr(self, field.name),
                field.metadata["low"],
                field.metadata["high"],
            )
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"--{field.name}={value}: must be a finite number")
            below = low is not None and value < low
            if below or (high is not None and value > high):
                wanted = f"at least {low}" if high is None else f"from {low} to {high}"
                raise UsageError(f"--{field.name}={value}: must be {wanted}")
        if self.dataset not in data.DATASETS:
            raise unknown_name("--dataset", self.dataset, data.DATASETS)
        if self.on_bad_image not in ("error", "skip"):
            raise unknown_name("--on_bad_image", self.on_bad_image, ("error", "skip"))
        if self.channels not in (1, 3):
            raise UsageError(f"--channels={self.channels}: must be 1 (gray) or 3 (RGB)")
        if self.batch_size > self.num_patches:
            raise UsageError(
                f"--batch_size={self.batch_size} is larger than --num_patches={self.num_patches}: "
                "an epoch would have no step"
            )
        if self.precision not in PRECISIONS:
            raise unknown_name("--precision", self.precision, PRECISIONS)
        check_strategy(self.members)
        losses.loss(self.loss, self.residual().ssim)
        residuals.check(self.residual())
        if self.augment not in (*augment.KINDS, "auto"):
            raise unknown_name("--augment", self.augment, (*augment.KINDS, "auto"))
        patches.check_sizes(self.image_size, self.patch_size, self.stride)
        if self.minimum_area > self.image_size**2:
            raise UsageError(
                f"--minimum_area={self.minimum_area}: must be at most the image's "
                f"{self.image_size**2} pixels"
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
        for line in text.splitlines():
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

    Exit codes: 0, 2 for a flag that cannot work, 1 for everything else, 130 when interrupted.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        given = [word.lstrip("-").partition("=")[0] for word in argv[1:]]
        if default_preset and not {"dataset", "flagfile", "help", "helpfull"} & set(given):
            preset = PRESETS / default_preset
            print(f"no --dataset given: flags from {preset.name}", file=sys.stderr)
            argv = [argv[0], f"--flagfile={preset}", *argv[1:]]
        try:
            rest = flags.FLAGS(argv)
        except flags.Error as error:
            _leave(str(error), UsageError.exit_code)
        if len(rest) > 1:
            _leave(f"not a flag: {rest[1]!r} (flags are --name=value)", UsageError.exit_code)
        return rest

    def guarded(_: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # orbax tells a story of every file it writes
        try:
            run()
        except CaeError as error:
            _leave(str(error), error.exit_code)
        except OSError as error:
            full = error.errno in _FULL_DISK
            hint = "no space left; what was written before is whole" if full else error.strerror
            _leave(f"{error.filename or 'writing'}: {hint or error}", 1)
        except KeyboardInterrupt:
            _leave("interrupted; the same command goes on from the last checkpoint", 130)

    app.run(guarded, flags_parser=parse)


def _leave(message: str, code: int) -> None:
    print("error: " + " ".join(message.split("\n")), file=sys.stderr)
    sys.exit(code)
