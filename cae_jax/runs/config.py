"""One run's flags: the records that all methods share, and the chosen method's own."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cae_jax import files, methods, options
from cae_jax.data import joint, synthetic
from cae_jax.data.frame import Frame, read_part
from cae_jax.data.layouts.found import USUAL, Names
from cae_jax.evaluation import segmentation, threshold_rule
from cae_jax.options import IDENTITY, Fields, Pixels, flag
from cae_jax.runs import frames
from cae_jax.runs.shared import AUTO, FOLDS, Images, Output, Scoring
from cae_jax.types import (
    Fit,
    Method,
    Size,
    Steps,
    UsageError,
    height_width,
    size_text,
    unknown_name,
)

if TYPE_CHECKING:
    from cae_jax.scoring.residuals import Reduction


@dataclasses.dataclass(frozen=True)
class Config(Images, Scoring, Output):
    """One run; `configure` makes one from flags by name."""

    method: str = flag(methods.DEFAULT, "how to learn: built in, or package.module of your own")
    seed: int = flag(0, "decides crops, order, parameters, validation split", 0, 2**31 - 1)
    options: Any = None  # the method's own flags, its Options

    def flags(self) -> dict[str, Any]:
        """Returns all flags with their values, the method's own last."""
        return options.values(self) | options.values(self.options)

    def fields(self) -> Fields:
        """Returns the fields of `flags`."""
        return flags_of(self.method)

    def changed(self, **flags: Any) -> Config:
        """Returns the record with other values; of another method, the shared flags are kept.

        A --validation_fraction without --folds asks for it, see `configure`. Raises UsageError for
        what is no flag of it.
        """
        if "validation_fraction" in flags:
            flags = {"folds": 0} | flags
        same = flags.get("method", self.method) == self.method
        return configure(**((self.flags() if same else options.values(self)) | flags))

    def check(self) -> None:
        """Raises UsageError for the first flag that cannot work, alone or with the other ones that
        all methods share."""
        options.check(self)
        options.check(self.options)
        where = os.path.abspath(self.folder)
        if fault := files.not_utf8(where):
            raise UsageError(f"--workdir={where}: {fault}")
        self._check_data()
        from cae_jax.scoring import residuals  # JAX, which a --help need not wait for

        residuals.check(self.reduction())
        if self.threshold:
            threshold_rule.parse(self.threshold)
        if self.minimum_area > self.n_pixels:
            raise UsageError(
                f"--minimum_area={self.minimum_area}: must be at most the image's "
                f"{self.n_pixels} pixels"
            )

    def _check_data(self) -> None:
        """Raises UsageError where flags say different things of the images, or no color."""
        read_part("roi", self.roi)
        read_part("ignore", self.ignore)
        _ = self.bare_frame
        if self.tile:
            from cae_jax.scoring import tiles

            tiles.check(self.tile, self.tile_overlap, height_width(self.image_size))
        if self.dataset != "folder":
            for name, value in self.names._asdict().items():
                if value != getattr(USUAL, name) and not self._knows(name):
                    raise UsageError(f"--{name}={value}: only of --dataset=folder")
        if self.dataset == "arrays":
            for name in ("roi", "ignore"):
                if given := getattr(self, name):
                    raise UsageError(
                        f"--{name}={given}: only of files; cut the part out of the arrays, or fill "
                        "what shall not count"
                    )
        if self.dataset == "synthetic":
            if self.data_dir:
                raise UsageError(
                    f"--data_dir={self.data_dir}: --dataset=synthetic is drawn, not read; for "
                    "images of your own add --dataset=folder"
                )
            for name, default in (("resize", "stretch"), ("roi", ""), ("ignore", "")):
                if (given := getattr(self, name)) != default:
                    raise UsageError(
                        f"--{name}={given}: --dataset=synthetic is drawn at its size; for images "
                        "of your own add --dataset=folder"
                    )
            size = size_text(self.image_size)
            height, width = height_width(self.image_size)
            if height != width:
                raise UsageError(f"--image_size={size}: synthetic images are square")
            if height < synthetic.MIN_SIZE:
                raise UsageError(
                    f"--image_size={size}: synthetic needs {synthetic.MIN_SIZE} or more"
                )
        elif self.data_dir and os.path.realpath(self.folder) == os.path.realpath(self.data_dir):
            raise UsageError(f"--workdir={self.workdir}: is --data_dir itself; take another one")

    def _knows(self, name: str) -> bool:
        """Whether that flag means something of records, as it does of folders."""
        return self.dataset == "tfds" and name in ("good_name", "test_fraction")

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories asked for, not yet resolved; those of a joint cell."""
        # as a shell completes the name of a folder: "cookie/"
        asked = ",".join(name.strip().rstrip("/\\") for name in self.category.split(","))
        if self.joint:
            return joint.names(asked)
        return tuple(name for name in asked.split(",") if name)

    @property
    def parts(self) -> tuple[str, ...]:
        """The categories whose images a cell is of: its own, or all of a joint one."""
        return self.categories if self.joint else (self.category,)

    @property
    def names(self) -> Names:
        """What is known of how the folder is laid out."""
        return Names(self.layout, self.good_name, self.mask_pattern, self.test_fraction)

    @property
    def frame(self) -> Frame:
        """What images are brought to, by the masks that lie where the flags say."""
        return self.framed(self.cell_folder)

    def framed(self, kept: Path | None, first: bool = False) -> Frame:
        """Returns what images are brought to; see `frames.frame` for the arguments and errors."""
        return frames.frame(self.bare_frame, {"roi": self.roi, "ignore": self.ignore}, kept, first)

    @property
    def bare_frame(self) -> Frame:
        """What images are brought to, but for --roi and --ignore."""
        found = Frame.of(self.image_size, self.channels, self.bit_depth, self.background)
        return dataclasses.replace(found, resize=self.resize, mask_ground=self.mask_ground)

    @property
    def cell_folder(self) -> Path:
        """Of the run of one category; see `runs.cell`."""
        return self.folder / self.category / self.label / f"seed_{self.seed}"

    @property
    def inspected_size(self) -> Size:
        """Of what the method itself sees: an image, or a tile of it."""
        return self.tile or self.image_size

    @property
    def n_tiles(self) -> int:
        """Of an image; 1 where it is inspected whole."""
        if not self.tile:
            return 1
        from cae_jax.scoring import tiles

        return len(tiles.corners(height_width(self.image_size), self.tile, self.tile_overlap))

    @property
    def n_pixels(self) -> int:
        """Of an image, as it is judged."""
        return math.prod(height_width(self.image_size))

    @property
    def folder(self) -> Path:
        """The workdir as a path."""
        return Path(os.path.expanduser(self.workdir or f"runs/{self.dataset}"))

    @property
    def smallest_defect(self) -> int:
        """The minimum area of a defect, in pixels: a share of what is inspected at once, or tiles
        would look for small defects that no mask may show."""
        pixels = math.prod(height_width(self.inspected_size))
        return self.minimum_area or segmentation.default_area(pixels)

    @property
    def excel(self) -> bool:
        """Whether tables are written for Excel."""
        return self.csv == "excel"

    @property
    def label(self) -> str:
        """What the run is called, as part of a path: the method, or the name it gives itself."""
        return methods.label(self.method, self.options)

    @property
    def title(self) -> str:
        """What tables and figures call the run."""
        return methods.title(self.method, self.options)

    def build(self) -> Method:
        """Returns the method; raises UsageError for options that cannot work, and where JAX has no
        device."""
        from cae_jax.scoring import compilation

        compilation.check_devices()
        own = (self.method, self.options)
        if not self.tile:
            return methods.build(*own, self.image_size, self.channels)
        size = height_width(self.image_size)
        return methods.build_tiled(*own, self.tile, self.tile_overlap, size, self.channels)

    def resolved(self) -> Config:
        """Returns the record that holds from any working directory, with what the method decides.

        Raises UsageError for what cannot work.
        """
        self.check()
        method = self.build()
        known = method.distances
        if self.distance and self.distance not in known:
            raise unknown_name("--distance", self.distance, known)
        own = self.options
        own = own.resolved(self.inspected_size) if hasattr(own, "resolved") else own
        _check_early(self.method, own, method.learn)
        where = os.path.abspath(os.path.expanduser(self.data_dir)) if self.data_dir else ""
        masks = {
            name: os.path.abspath(os.path.expanduser(text))
            for name in ("roi", "ignore")
            if (text := getattr(self, name)) and not read_part(name, text)
        }
        distance = self.distance or known[0]
        found = dataclasses.replace(self, data_dir=where, distance=distance, options=own, **masks)
        return found.changed(**self._unseen(isinstance(method.learn, Fit)))

    def _unseen(self, in_one_pass: bool) -> dict[str, Any]:
        """Which good images thresholds are picked on, with folds nothing held out; raises
        UsageError for what cannot be."""
        folds, fraction = self.folds, self.validation_fraction
        if folds == AUTO:
            folds = FOLDS if in_one_pass else 0
        if folds == 1:
            raise UsageError("--folds=1: must be 0, or at least 2: one fold leaves nothing to fit")
        if folds and not in_one_pass:
            raise UsageError(
                f"--folds={folds}: --method={self.method} learns by steps, which would be done "
                "once a fold; leave it out, and --validation_fraction of the images are held out"
            )
        if folds:
            if fraction not in (0.0, shared()["validation_fraction"].default):
                raise UsageError(
                    f"--validation_fraction={fraction}: with --folds={folds} nothing is held out; "
                    "leave one of them out"
                )
            fraction = 0.0
        rated = self.threshold and threshold_rule.parse(self.threshold).needs_unseen
        if (rated or self.false_alarms) and not (folds or fraction):
            name = "threshold" if rated else "false_alarms"
            raise UsageError(
                f"--{name}={getattr(self, name)}: needs good images that were not learned "
                "from: --folds, or a --validation_fraction above 0"
            )
        return {"folds": folds, "validation_fraction": fraction}

    def reduction(self, all_distances: tuple[str, ...] = ()) -> Reduction:
        """Returns how maps become numbers: of the run's distance, or of all that are named."""
        from cae_jax.scoring.residuals import Reduction

        return Reduction(
            all_distances or (self.distance,),
            self.residual_smooth,
            self.residual_border,
            self.image_score,
            self.top_share,
        )

    def to_flagfile(self) -> str:
        """Returns the flags as an absl flagfile, one per line, that gives this record again."""
        lines = [f"--{name}={options.to_text(value)}" for name, value in self.flags().items()]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_flagfile(cls, text: str, where: str) -> Config:
        """Reads what `to_flagfile` wrote; raises UsageError naming `where` and the line."""
        found = {}
        text = text.removeprefix("\ufeff").removesuffix("\n")  # an editor's byte order mark
        for line in text.split("\n"):  # a name may hold other line breaks
            name, equals, value = line.removeprefix("--").partition("=")
            if not equals:
                raise UsageError(f"{where}: not a flag of this version: {line!r}")
            found[name] = (value, line)
        method = found.get("method", (methods.DEFAULT, ""))[0]  # before there were others
        known, values = flags_of(method), {}
        for name, (value, line) in found.items():
            if name not in known:
                raise UsageError(f"{where}: not a flag of this version: {line!r}")
            default = known[name].default
            try:
                values[name] = options.from_text(f"--{name}", value, default)
            except UsageError as error:
                kind = "size" if isinstance(default, Pixels) else type(default).__name__
                raise UsageError(f"{where}: {line!r} is no {kind}") from error
        return configure(**values)


def read_flags(path: Path) -> Config:
    """Returns the record of a cell's flags.txt; raises UsageError for flags that this version does
    not know."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape")  # as write_whole writes
    return Config.from_flagfile(text, str(path))


def _check_early(name: str, own: Any, learn: Steps | Fit) -> None:
    """Raises UsageError where nothing says when to stop early."""
    patience = getattr(own, "early_stopping", 0)
    if patience and not (isinstance(learn, Steps) and learn.best_by):
        raise UsageError(
            f"--early_stopping={patience}: --method={name} has no loss that tells the best epoch "
            "from others; leave it out, and take fewer --epochs"
        )


def shared() -> Fields:
    """Returns the flags that all methods have."""
    return options.fields(Config)


def flags_of(method: str) -> Fields:
    """Returns the flags of a run by that method: the shared ones, and its own.

    Where it gives a shared one again, that has its default. Raises UsageError for no such method.
    """
    return options.fields(Config, methods.options_of(method))


def configure(**flags: Any) -> Config:
    """Returns the record of a run from flags by name; what is left out has its default.

    A validation_fraction without folds is one of a run that holds it out: folds are 0. So it was
    in every run before there were folds, and their flags are read by this.

    Raises UsageError for an unknown method, for a flag that is none of its, and for a value of
    another type than the flag's.
    """
    method = options.taken(shared()["method"], flags.get("method", methods.DEFAULT))
    known = flags_of(method)
    for name in flags:
        if name not in known:
            raise not_a_flag(name, method, methods_with(name))
    if "validation_fraction" in flags:
        flags = {"folds": 0} | flags
    values: dict[str, Any] = {name: field.default for name, field in known.items()}
    values |= {name: options.taken(known[name], value) for name, value in flags.items()}
    own = methods.options_of(method)
    of_method = {name: values[name] for name in options.fields(own)}
    of_all = {name: values[name] for name in shared()}
    return Config(**of_all, options=own(**of_method))


def methods_with(flag_name: str) -> list[str]:
    """Returns the built-in methods that have a flag of their own by that name."""
    found = {name: options.fields(methods.options_of(name)) for name in methods.names()}
    return [name for name, own in found.items() if flag_name in own and flag_name not in shared()]


def not_a_flag(name: str, method: str, others: Sequence[str] = ()) -> UsageError:
    """Returns the error for a flag that a run by that method does not have, though others do."""
    if others:
        return UsageError(f"--{name}: a flag of --method={' or '.join(others)}, not of {method}")
    return unknown_name("flag", f"--{name}", [f"--{known}" for known in flags_of(method)])


def identity(config: Config, *parts: str) -> dict[str, Any]:
    """Returns the flags in these parts, IDENTITY without any, with their values as JSON has them:
    a size that is not square as text."""
    flags = {
        name: options.to_text(value) if isinstance(value, tuple) else value
        for name, value in config.flags().items()
    }
    names = options.in_part(config.fields(), *(parts or (IDENTITY,)))
    return {name: flags[name] for name in names}
