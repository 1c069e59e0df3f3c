"""Several categories as one: a model of all of them learns from and is judged on their images.

Paths and the kinds of defects then begin with the category's name, "hazelnut/test/crack/000.png"
and "hazelnut/crack"; a good image is of kind GOOD, whichever category it is of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cae_jax import files
from cae_jax.types import GOOD, Split, UsageError

SEPARATOR = "+"  # between names, in the name of all
_LONGEST = 200  # bytes of a name, which is a folder's too


def name(categories: Sequence[str]) -> str:
    """Returns what several categories are called together, "cookie+hazelnut": in order, so that
    the same ones asked for in another order are the same run.

    Raises:
      UsageError: one alone, one with the separator in its name, or too many for a folder's name.
    """
    if len(categories) < 2:
        raise UsageError(f"--joint: takes several categories, got {', '.join(categories)} alone")
    for category in categories:
        if SEPARATOR in category:
            raise UsageError(f"--joint: {category!r} has a {SEPARATOR} in its name; rename it")
    found = SEPARATOR.join(sorted(categories, key=lambda each: f"{each}/"))  # as paths are sorted
    if len(found.encode()) > _LONGEST:
        raise UsageError(
            f"--joint: {len(categories)} categories have too long a name together; take fewer"
        )
    return found


def names(text: str) -> tuple[str, ...]:
    """Returns the categories of a name that `name` gave, or that are listed with commas."""
    return tuple(each.strip() for each in text.replace(SEPARATOR, ",").split(",") if each.strip())


def join(splits: Sequence[Split], held: str = files.AUTO) -> Split:
    """Returns categories of one data set, image size and number of channels as one.

    Args:
      splits: in the order of `name`; images are held out of each by itself, so that they are the
        same ones that a run of it alone holds out.
      held: where their images lie, one of `files.HELD`.
    """

    def paths(field: str) -> tuple[str, ...]:
        return tuple(f"{s.category}/{path}" for s in splits for path in getattr(s, field))

    def arrays(field: str) -> Any:
        return files.joined([getattr(split, field) for split in splits], held)

    return Split(
        dataset=splits[0].dataset,
        category=name([split.category for split in splits]),
        train=arrays("train"),
        train_paths=paths("train_paths"),
        validation=arrays("validation"),
        validation_paths=paths("validation_paths"),
        test=arrays("test"),
        test_paths=paths("test_paths"),
        masks=arrays("masks"),
        has_mask=arrays("has_mask"),
        kinds=tuple(_kind(s.category, kind) for s in splits for kind in s.kinds),
        test_sizes=tuple(size for s in splits for size in s.test_sizes),
        left_out=tuple(
            each._replace(path=f"{s.category}/{each.path}") for s in splits for each in s.left_out
        ),
        warnings=tuple(warning for s in splits for warning in s.warnings),
        duplicates=tuple(
            each._replace(path=f"{s.category}/{each.path}", like=f"{s.category}/{each.like}")
            for s in splits
            for each in s.duplicates
        ),
        groups=_groups([split.groups for split in splits]),
        counts={f"{s.category}/{path}": each for s in splits for path, each in s.counts.items()},
        regions={f"{s.category}/{path}": each for s in splits for path, each in s.regions.items()},
        layout=SEPARATOR.join(sorted({s.layout for s in splits} - {""})),
        notes=tuple(f"{s.category}: {note}" for s in splits for note in s.notes),
    )


def _groups(each: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Groups of all categories, none of which reaches into another."""
    found: list[int] = []
    for groups in each:
        before = max(found, default=-1) + 1
        found += [before + group for group in groups]
    return tuple(found)


def _kind(category: str, kind: str) -> str:
    return kind if kind == GOOD else f"{category}/{kind}"
