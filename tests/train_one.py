"""One member trained by itself, for tests that are about one."""

from cae_jax.training.loop import train_members
from cae_jax.training.members import Plan
from cae_jax.types import CaeError


def train_member(
    learn,
    member,
    on_step=lambda step, metrics: None,
    on_epoch=lambda progress: None,
    plan=Plan(),  # noqa: B008 - immutable
):
    """Trains one, see `train_members`; raises CaeError where it ended with one."""
    (end,) = train_members(learn, [member], plan, on_step, lambda _, at: on_epoch(at))
    if isinstance(end, CaeError):
        raise end
    return end
