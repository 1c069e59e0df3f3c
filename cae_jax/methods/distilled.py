"""A student learns to say of good images what a pretrained network says: EfficientAD-style.

Batzner, Heckler and König, "EfficientAD: accurate visual anomaly detection at millisecond-level
latencies", WACV 2024 (arXiv 2303.14535). Where student and teacher differ is a defect. An
autoencoder of the teacher's maps, which sees an image as a whole, is imitated by the student too:
where these two differ, parts do not belong together.

In the paper's manner: the networks (`models.efficient_ad`), the loss on the hardest thousandth, the
autoencoder on images of another brightness, contrast or saturation, the teacher's channels at mean
0 and deviation 1, Adam with its rate at a tenth in the last twentieth of the steps, 70,000 steps of
one image, and the sum of the two maps, each at the scale of its quantiles .9 and .995.

Not the paper's, so that its numbers are not to be expected: the teacher is a network trained on
ImageNet itself, EfficientNet-Lite0, and not a small one that was distilled from a larger; there are
no ImageNet images, and so no penalty of what the student says of them. A method by steps sees
images in its steps alone: the teacher's means and deviations are of the first epoch's, and the
quantiles the mean of those of each step in the last twentieth, of images learned from and not held
out, which are smaller, for both maps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cae_jax.jit import one_by_one
from cae_jax.methods import descent, gradients
from cae_jax.methods.features import Extractor, divisors, extractor
from cae_jax.methods.options.distilled import Options
from cae_jax.models.efficient_ad import Autoencoder, Student
from cae_jax.training import schedule
from cae_jax.types import Evidence, Method, Metrics, State, Steps, Variables

DISTANCES = ("combined", "student", "autoencoder")
_MIDDLE = slice(1, 3)  # of a network's stages
_ENDS = (0.9, 0.995)  # quantiles that are 0 and 0.1 of a map
_JITTER = 0.2  # brightness, contrast or saturation times 1 +- so much
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue
_MEAN, _DEVIATION = 0.45, 0.225  # ImageNet's, of all channels
_TINY = 1e-6


class Networks(NamedTuple):
    """What learns, what it learns from, and from whom."""

    student: Student
    autoencoder: Autoencoder
    teacher: Extractor

    def maps(self, params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the student says in the teacher's place, and in the autoencoder's."""
        own: Any = {"params": params["student"]}
        said: Any = self.student.apply(own, self.seen(images))
        c = self.teacher.channels
        return said[..., :c], said[..., c:]

    def imagined(self, params: Any, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """What the autoencoder makes of images; with a key, as it trains."""
        own: Any = {"params": params["autoencoder"]}
        rngs = None if key is None else {"dropout": key}
        made: Any = self.autoencoder.apply(own, self.seen(images), key is not None, rngs=rngs)
        return made

    def seen(self, images: jax.Array) -> jax.Array:
        """Images as both see them."""
        return (images - _MEAN) / _DEVIATION


def make(options: Options, side: int, channels: int) -> Method:
    """Returns the method for images [B, side, side, channels]; raises UsageError."""
    schedule.check(options)
    found = extractor(options, side, channels, _MIDDLE)
    return of_features(options, found, (side, side, channels))


def of_features(o: Options, found: Extractor, shape: tuple[int, int, int]) -> Method:
    """Returns the method with any features as the teacher, for images of that shape (H, W, C).

    Its maps are the mean squares over the channels: "student" of student and teacher, "autoencoder"
    of student and autoencoder, and "combined", half the sum of `scaled` ones. The variables are the
    networks' "params" and, of "batch_stats", the "teacher"'s and the `quantiles` of the "maps".
    """
    student = Student(2 * found.channels, found.grid, o.width)
    nets = Networks(student, Autoencoder(found.channels, found.grid), found)
    learn = descent.averaged(steps(nets, o, shape), o)
    return Method(learn, functools.partial(_inspect, nets), DISTANCES, found.frozen)


def steps(nets: Networks, o: Options, shape: tuple[int, int, int]) -> Steps:
    """Returns how both networks learn from whole images of that shape (H, W, C).

    A step's metrics are the loss and the three that it is the sum of: the student's, the
    autoencoder's, and the student's of the autoencoder. `validate` gives the same, of images as
    they are. The last state is the one to keep, as in the paper.
    """
    c, tx = nets.teacher.channels, optimizer(o)

    def init(key: jax.Array) -> State:
        of_student, of_autoencoder = jax.random.split(key)
        image = jnp.zeros((1, *shape))
        params = {
            "student": nets.student.init(of_student, image)["params"],
            "autoencoder": nets.autoencoder.init(of_autoencoder, image)["params"],
        }
        seen = {"images": jnp.zeros(()), "mean": jnp.zeros(c), "variance": jnp.zeros(c)}
        ends = {"student": jnp.zeros(2), "autoencoder": jnp.zeros(2)}
        variables = {"params": params, "batch_stats": {"teacher": seen, "maps": ends}}
        return State(jnp.zeros((), jnp.int32), key, variables, tx.init(params))

    def step(state: State, images: jax.Array) -> tuple[State, Metrics]:
        params, stats = state.variables["params"], state.variables["batch_stats"]
        of_change, of_dropout = jax.random.split(gradients.step_key(state))
        both = jnp.concatenate([images, jittered(images, of_change)])
        said = nets.teacher.of(both)
        moved = merged(stats["teacher"], said[: len(images)])
        first = state.step < o.steps_per_epoch
        seen = jax.tree.map(lambda new, old: jnp.where(first, new, old), moved, stats["teacher"])

        def loss(params: Any) -> tuple[jax.Array, Any]:
            return losses(nets, params, both, normalised(seen, said), o.hardest, of_dropout)

        (_, (metrics, maps)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(gradient, state.opt_state, params)
        share = 1 / jnp.maximum(1, state.step - o.slow_from + 1)
        ends = {k: old + share * (quantiles(maps[k]) - old) for k, old in stats["maps"].items()}
        held = {"teacher": seen, "maps": ends}
        variables = {"params": optax.apply_updates(params, updates), "batch_stats": held}
        return State(state.step + 1, state.key, variables, opt_state), metrics

    def validate(variables: Variables, images: jax.Array) -> Metrics:
        both = jnp.concatenate([images, images])
        targets = normalised(variables["batch_stats"]["teacher"], nets.teacher.of(both))
        return losses(nets, variables["params"], both, targets, o.hardest)[1][0]

    return Steps(init, step, validate, shape[0], best_by="")


def optimizer(o: Options) -> optax.GradientTransformation:
    """Returns Adam with L2 in the gradient, at a tenth of its rate from `o.slow_from` on."""
    rate = optax.piecewise_constant_schedule(o.learning_rate, {o.slow_from: 0.1})
    tx = optax.chain(optax.add_decayed_weights(o.weight_decay), optax.adam(rate))
    return descent.guided(tx, o, o.steps)


def losses(
    nets: Networks,
    params: Any,
    images: jax.Array,
    targets: jax.Array,
    hardest: float,
    key: jax.Array | None = None,
) -> tuple[jax.Array, tuple[Metrics, Mapping[str, jax.Array]]]:
    """Returns the loss, its parts by name, and the two maps of the first half of the images.

    The loss is `hard_mean` of what the student says wrong of the first half, plus two mean squares
    of the second one: of teacher and autoencoder, and of autoencoder and student.

    Args:
      nets: the networks.
      params: theirs.
      images: the same ones twice [2 N, H, W, C], as they are and `jittered`.
      targets: what the teacher says of them, `normalised` [2 N, h, w, c].
      hardest: see `hard_mean`.
      key: of the autoencoder's dropout; None for none.
    """
    n = len(images) // 2
    said, imitated = nets.maps(params, images)
    wrong = jnp.square(targets[:n] - said[:n])
    imagined = nets.imagined(params, images[n:], key)
    parts = {
        "student_loss": hard_mean(wrong, hardest),
        "autoencoder_loss": jnp.mean(jnp.square(targets[n:] - imagined)),
        "imitation_loss": jnp.mean(jnp.square(imagined - imitated[n:])),
    }
    apart = jnp.square(lax.stop_gradient(nets.imagined(params, images[:n]) - imitated[:n]))
    maps = {"student": jnp.mean(wrong, axis=-1), "autoencoder": jnp.mean(apart, axis=-1)}
    value = sum(parts.values(), jnp.zeros(()))
    return value, ({"loss": value, **parts}, maps)


def hard_mean(errors: jax.Array, quantile: float) -> jax.Array:
    """Returns the mean over images of that of an image's errors from their `quantile` on.

    The quantile is NumPy's, between the two errors next to it; of errors [N, h, w, c] with 1 the
    largest is left, with 0 all. So which it is says that there are as many, and they need no sort.
    """
    m = math.prod(errors.shape[1:])
    count = m - math.ceil(round(quantile * (m - 1), 6))
    return jnp.mean(lax.top_k(errors.reshape(len(errors), m), count)[0])


def jittered(images: jax.Array, key: jax.Array) -> jax.Array:
    """Returns images [N, H, W, C] in [0, 1], each of another brightness, contrast or saturation.

    As torchvision's ColorJitter: times a factor from 0.8 to 1.2; about the image's mean gray; about
    each pixel's own gray, which changes nothing in an image without colour.
    """
    for_kind, for_factor = jax.random.split(key)
    shape = (len(images), 1, 1, 1)
    kind = jax.random.randint(for_kind, shape, 0, 3)
    factor = jax.random.uniform(for_factor, shape, minval=1 - _JITTER, maxval=1 + _JITTER)
    gray = images
    if images.shape[-1] == 3:
        gray = jnp.sum(images * jnp.array(_LUMA), axis=-1, keepdims=True)
    about = [jnp.zeros(shape), jnp.mean(gray, axis=(1, 2, 3), keepdims=True), gray]
    center = jnp.select([kind == 0, kind == 1], about[:2], about[2])
    return jnp.clip(center + factor * (images - center), 0, 1)


def merged(seen: Variables, maps: jax.Array) -> Variables:
    """Returns mean and variance [c] of the teacher's channels with those of maps [N, h, w, c]
    merged in; `seen` holds the number of "images" too."""
    total = seen["images"] + len(maps)
    share, axes = len(maps) / total, (0, 1, 2)
    away = jnp.mean(maps, axis=axes) - seen["mean"]
    more = jnp.var(maps, axis=axes) - seen["variance"] + (1 - share) * jnp.square(away)
    return {
        "images": total,
        "mean": seen["mean"] + share * away,
        "variance": seen["variance"] + share * more,
    }


def normalised(seen: Variables, maps: jax.Array) -> jax.Array:
    """Returns maps [N, h, w, c] with what was seen of each channel at mean 0 and deviation 1."""
    return (maps - seen["mean"]) / divisors(seen["variance"])


def quantiles(maps: jax.Array) -> jax.Array:
    """Returns the quantiles .9 and .995 of all points of maps [N, h, w]."""
    return jnp.quantile(maps, jnp.array(_ENDS))


def scaled(maps: jax.Array, ends: jax.Array) -> jax.Array:
    """Returns maps with the first of their `quantiles` at 0 and the second at 0.1."""
    return 0.1 * (maps - ends[0]) / jnp.maximum(ends[1] - ends[0], _TINY)


def _inspect(nets: Networks, variables: Variables, images: jax.Array) -> Evidence:
    params, stats = variables["params"], variables["batch_stats"]
    target = normalised(stats["teacher"], nets.teacher.maps(variables, images))

    def maps(images: jax.Array) -> tuple[jax.Array, ...]:
        return *nets.maps(params, images), nets.imagined(params, images)

    said, imitated, imagined = one_by_one(maps, images)
    student = jnp.mean(jnp.square(target - said), axis=-1)
    apart = jnp.mean(jnp.square(imagined - imitated), axis=-1)
    ends = stats["maps"]
    both = scaled(student, ends["student"]) + scaled(apart, ends["autoencoder"])
    return Evidence({"combined": both / 2, "student": student, "autoencoder": apart})
