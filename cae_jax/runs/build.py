"""What a run's flags stand for: its images, its scoring call."""

from __future__ import annotations

import jax
import numpy as np

from cae_jax import data, methods
from cae_jax.data import joint
from cae_jax.evaluation import thresholds
from cae_jax.runs.config import Config
from cae_jax.runs.machine.progress import Bar
from cae_jax.scoring import scorer, strips
from cae_jax.types import DataError, Split, State, Steps, Variables, height_width


def read_split(config: Config) -> Split:
    """Reads the images of a cell's category, or of all of a joint one: of each as many to learn
    from as it asks for, of which validation images are held out; raises DataError for images that
    cannot be used."""
    c, splits = config, []
    with Bar(f"read {c.category}", 0, "images") as bar:
        for name in c.parts:
            split = data.read(
                *(c.dataset, c.data_dir, name, c.frame, c.seed, c.on_bad_image),
                progress=bar.update,
                names=c.names,
            )
            split = data.take(split, c.train_images, c.seed)
            n = len(split.train) + len(split.test)
            with Bar(f"search {name} for duplicates", n, "images", brief=True) as searched:
                splits.append(data.hold_out(split, c.validation_fraction, c.seed, searched.update))
    check_threshold(c, sum(len(s.validation) + len(s.test) for s in splits))
    return joint.join(splits) if c.joint else splits[0]


def summary(config: Config, split: Split) -> str:
    """Returns what was read, see `data.summary`, and what so few good images cannot tell."""
    n = len(split.train if config.folds else split.validation)
    alone = config.folds and len(set(split.groups)) == 1  # which cannot be left out
    said = None if alone else thresholds.few(n)
    lines = [data.summary(split), *([f"  warning: {said}"] if said else [])]
    return "\n".join(lines)


def check_threshold(config: Config, n: int) -> None:
    """Raises DataError where a threshold could be picked on no image: n are held out or judged."""
    if not config.folds and not n:
        raise DataError(
            f"{config.category}: good images alone, and none held out, so that no threshold can "
            "be picked: --validation_fraction or --folds above 0"
        )


def scoring_call(config: Config, all_distances: bool = False) -> scorer.Scorer:
    """Returns the scoring call of a resolved config, by its own distance or by all of its method's;
    raises UsageError for options that cannot work."""
    method = config.build()
    reduction = config.reduction(method.distances if all_distances else ())
    return scorer.scorer(method.inspect, reduction, config.intensity, channels=config.channels)


def strip_scorer(config: Config) -> strips.StripScorer | None:
    """Returns how images of another size than --image_size are scored, on the host; None where they
    cannot be: of --tile with --resize=none alone, without masks, and by a number of maps that does
    not grow with them."""
    c = config
    if not c.tile or c.resize != "none" or c.image_score == "sum" or c.ignore or c.roi:
        return None
    method = methods.build(c.method, c.options, c.tile, c.channels)
    return strips.scorer(method, c.tile, c.tile_overlap, c.reduction(), c.intensity)


def shapes(config: Config, n_images: int) -> tuple[State | None, Variables]:
    """Returns the shapes of a fresh state, None of a method that learns in one pass, and of what a
    resolved config's method learns of so many images; nothing is computed."""
    learn, key = config.build().learn, jax.random.key(0)
    if isinstance(learn, Steps):
        state = jax.eval_shape(learn.init, key)
        return state, state.variables
    shape = (n_images, *height_width(config.image_size), config.channels)
    return None, jax.eval_shape(learn.fit, key, jax.ShapeDtypeStruct(shape, np.float32))
