"""Images of several requests in one call, each with its own fate, and never more than seats."""

import threading

import fake_service
import numpy as np
import pytest

from cae_jax.serving.detector import MANY
from cae_jax.serving.service.worker import BusyError, Worker
from cae_jax.types import CaeError


def image(level):
    return np.full((fake_service.SIDE, fake_service.SIDE, 1), level, np.float32)


class Gate:
    """The fake's call, which waits for `opened` and notes its batches."""

    def __init__(self):
        self.opened, self.begun, self.sizes = threading.Event(), threading.Event(), []

    def __call__(self, pixels):
        self.sizes.append(len(pixels))
        self.begun.set()
        assert self.opened.wait(30)
        return fake_service.mean_level(pixels)


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def worker(gate):
    made = Worker(fake_service.detector(gate), 16, 0.0)
    yield made
    gate.opened.set()
    made.retire()


def test_what_waits_is_judged_in_one_call(gate, worker):
    levels = [0.05, *(0.11 + 0.08 * i for i in range(MANY))]
    seats = worker.book(len(levels))
    first = seats.bring(image(levels[0]), "first")
    assert gate.begun.wait(30)  # the thread is in the call with the first one
    rest = [seats.bring(image(level), "x") for level in levels[1:]]
    assert worker.waiting == MANY
    gate.opened.set()
    found = [future.result(30) for future in (first, *rest)]
    assert gate.sizes == [1, MANY]
    assert [each.distance for each in found] == pytest.approx([100 * level for level in levels])
    assert [each.defective for each in found] == [100 * level > 50 for level in levels]
    # p = (1 + how many of 10, 20, 30, 40 are at least the distance) / 5
    assert [round(each.p_value, 6) for each in found[:4]] == [1.0, 0.8, 0.8, 0.6]
    seats.leave()


def test_an_image_that_fails_is_no_other_ones_fault(gate, worker):
    seats = worker.book(6)
    held = seats.bring(image(0.9), "held")
    assert gate.begun.wait(30)
    futures = [seats.bring(image(level), f"l{level}") for level in (0.2, 0.0, 0.3, 0.4, 0.6)]
    gate.opened.set()
    assert held.result(30).distance == pytest.approx(90)
    with pytest.raises(CaeError, match=r"l0\.0"):
        futures[1].result(30)
    good = [futures[i].result(30).distance for i in (0, 2, 3, 4)]
    assert good == pytest.approx([20, 30, 40, 60])
    seats.leave()


def test_more_than_the_seats_are_refused(gate, worker):
    gate.opened.set()
    held = worker.book(15)
    with pytest.raises(BusyError, match="15 images are under way"):
        worker.book(2)
    one = worker.book(1)
    held.leave()
    one.leave()
    assert worker.taken == 0
    assert worker.book(16) is not None


def test_it_waits_for_an_image_that_is_being_decoded():
    sizes = []

    def call(pixels):
        sizes.append(len(pixels))
        return fake_service.mean_level(pixels)

    worker = Worker(fake_service.detector(call), 16, 3600.0)
    seats = worker.book(7)
    futures = [seats.bring(image(0.5), "x") for _ in range(5)]
    assert not any(future.done() for future in futures)  # two are on their way
    seats.miss()
    futures.append(seats.bring(image(0.5), "x"))
    assert [future.result(30).distance for future in futures] == pytest.approx([50] * 6)
    assert sizes == [MANY]  # six, filled up to the one shape that is compiled
    seats.leave()
    alone = worker.book(1)
    assert alone.bring(image(0.5), "x").result(30)  # and not an hour later
    alone.leave()
    worker.retire()
    worker.join()


def test_a_retired_worker_ends_after_its_last_request(gate, worker):
    seats = worker.book(1)
    worker.retire()
    assert worker.book(1) is None
    future = seats.bring(image(0.7), "x")
    gate.opened.set()
    assert future.result(30).distance == pytest.approx(70)
    assert worker._thread.is_alive()
    seats.leave()
    worker.join()
