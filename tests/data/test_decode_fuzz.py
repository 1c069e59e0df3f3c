"""Decoding of arbitrary and of damaged bytes: an image, or DataError, and soon."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import runs.test_bad_images as bad
from command_lines import ENVIRONMENT, ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cae_jax.data import images
from cae_jax.data.frame import MAX_SIDE, Frame
from cae_jax.types import DataError

WHOLE = [bad.encode(bad.RGB, form) for form in ("PNG", "JPEG", "BMP", "TIFF")]
WHOLE += [
    bad.encode(bad.RGB, "TIFF", compression="tiff_lzw"),
    bad.turned(),
    bad.palette(),
    bad.floats(0.5),
]
WHOLE += [
    bad.animated("PNG"),
    bad.animated("TIFF"),
    bad.encode(bad.GRAY > 99, "TIFF", compression="group4"),
]
STARTS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"GIF89a"]
SECONDS = 20  # far above what any of them takes


def check_decode(content):
    """Every reader returns an image or raises DataError of one printable line, and soon."""
    begin = time.perf_counter()
    refused = 0
    for read in (
        lambda: images.decode(content, Frame(16, 3)),
        lambda: images.decode_mask(content, Frame(16), None).astype(np.float32),
        lambda: np.float32(images.size(content)) / MAX_SIDE,
    ):
        try:
            pixels = read()
        except DataError as error:
            refused += 1
            pixels, line = np.zeros(1), str(error)
            assert line.isprintable()
        assert ((pixels >= 0) & (pixels <= 1)).all()
    assert time.perf_counter() - begin < SECONDS
    return refused


@given(st.sampled_from(STARTS), st.binary(max_size=300))
@example(b"", b"")
@settings(max_examples=150)
def test_arbitrary_bytes_raise_only_data_errors(start, content):
    assert check_decode(start + content) in (2, 3)  # the header alone may be whole


@st.composite
def damaged(draw):
    """A whole file with bytes changed, cut out or put in."""
    content = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, 80) | st.integers(0, len(content)))
        with_ = draw(st.binary(max_size=4))
        content[at : at + draw(st.integers(0, 4))] = with_
    return bytes(content)


@given(damaged())
@settings(max_examples=300)
def test_damaged_files_raise_only_data_errors(content):
    check_decode(content)


# Prints how many were tried, refused by every reader, and the slowest in seconds.
FUZZ = """
import sys, time
import numpy as np
import data.test_decode_fuzz as bad

rng, n, refused, slowest = np.random.default_rng(int(sys.argv[1])), int(sys.argv[2]), 0, 0.0
for i in range(n):
    if i % 5:
        content = bytearray(bad.WHOLE[rng.integers(len(bad.WHOLE))])
        for at in rng.integers(0, len(content) if rng.random() < 0.5 else 80, rng.integers(1, 6)):
            content[at : at + rng.integers(0, 3)] = rng.bytes(rng.integers(0, 3))
    else:
        content = bad.STARTS[rng.integers(len(bad.STARTS))] + rng.bytes(rng.integers(400))
    begin = time.perf_counter()
    refused += bad.check_decode(bytes(content)) == 3
    slowest = max(slowest, time.perf_counter() - begin)
print(n, refused, slowest)
"""


@pytest.mark.slow
def test_a_long_fuzz_does_not_bring_the_process_down():
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, "1", "100000"],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    n, refused, slowest = done.stdout.split()
    print(n, refused, slowest)
    assert int(n) == 100_000
    assert 30_000 < int(refused) < 99_000
    assert float(slowest) < SECONDS
