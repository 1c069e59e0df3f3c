"""Values that a program gives: of the flag's type, or refused by its name, before they are used."""

import dataclasses
import decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cae_jax import methods, options
from cae_jax.methods.options import gaussian
from cae_jax.options import Pixels
from cae_jax.runs.config import Config, configure, flags_of
from cae_jax.types import UsageError

EVERY = [(method, field) for method in methods.names() for field in flags_of(method).values()]
INTS = st.integers(-(2**31), 2**31 - 1)
GIVEN = {  # kinds of values, and what is taken of each
    "truth": st.booleans() | st.booleans().map(np.bool_),
    "whole": INTS | INTS.map(np.int64) | st.integers(0, 255).map(np.uint8),
    "real": st.floats(width=32) | st.floats(width=32).map(np.float32),
    "text": st.text() | st.text().map(np.str_),
    "sides": st.tuples(INTS, INTS) | st.lists(INTS.map(np.int32), min_size=2, max_size=2),
    "nothing": st.sampled_from(
        [None, b"1", 1j, decimal.Decimal(1), {}, (1,), (1, "1"), [1, 2, 3], (True, 1), np.ones(2)]
    ),
}
TAKES = {
    bool: {"truth"},
    int: {"whole"},
    float: {"whole", "real"},
    str: {"text"},
    Pixels: {"whole", "sides"},
}
VALUES = st.one_of(st.tuples(st.just(kind), values) for kind, values in GIVEN.items())


@given(st.sampled_from(EVERY), VALUES)
def test_a_value_becomes_one_of_the_flags_type_or_is_refused_by_name(flag, value):
    (method, field), (kind, value) = flag, value
    wanted = type(field.default)
    if kind in TAKES[wanted]:
        found = options.taken(field, value)
        square = kind == "sides" and value[0] == value[1]
        plain = {Pixels: int if kind == "whole" or square else tuple}.get(wanted, wanted)
        assert type(found) is plain
        same = value[0] if square else tuple(value) if kind == "sides" else value
        assert found == same or found != found
        return
    for refuses in (
        lambda: configure(**{"method": method, field.name: value}),
        lambda: options.check_value(field, value),
    ):
        with pytest.raises(UsageError) as caught:
            refuses()
        message = str(caught.value)
        assert message.startswith(f"--{field.name}=")
        assert "\n" not in message
        assert message.endswith(f", not {type(value).__name__}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tile": "32"}, "--tile='32': must be a whole number, from 0 to 8192, not str"),
        ({"epochs": 1.5}, "--epochs=1.5: must be a whole number, at least 1, not float"),
        ({"loss": 2}, r"--loss=2: must be text \(l2, .*\), not int"),
        ({"image_size": "64"}, r"two as \(height, width\), from 8 to 8192, not str"),
        ({"method": gaussian}, r"--method=<module .*: must be text, not module"),
    ],
)
def test_the_error_says_what_came_and_what_is_expected(given, message):
    with pytest.raises(UsageError, match=message):
        configure(**given)


def test_numpys_numbers_and_paths_make_the_same_record():
    plain = {"epochs": 3, "learning_rate": 0.5, "joint": True, "loss": "l1", "image_size": 32}
    of_numpy = {
        "epochs": np.int32(3),
        "learning_rate": np.float16(0.5),
        "joint": np.True_,
        "loss": np.str_("l1"),
        "image_size": [np.int64(32), 32],
        "workdir": Path("runs") / "x",
    }
    found = configure(**of_numpy)
    assert found == configure(**plain, workdir=str(Path("runs/x")))
    assert Config.from_flagfile(found.to_flagfile(), "flags.txt") == found


def test_options_built_by_hand_are_checked_when_the_method_is_built():
    record = dataclasses.replace(gaussian.Options(), neighborhood="3")
    with pytest.raises(UsageError, match="--neighborhood='3': must be a whole number"):
        methods.build("gaussian", record, 16, 1)
