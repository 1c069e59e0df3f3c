"""What Prometheus reads: counts, latency, scores by the model's own bounds, drift."""

import asyncio

import fake_service
import numpy as np
import pytest
from fake_service import client, parts, png
from prometheus_client.parser import text_string_to_metric_families
from scipy import stats

from cae_jax.serving.service import window


def scrape(app, levels):
    """The metrics as {(name, labels but the model): value} after images of these levels."""

    async def asked():
        async with client(app) as asking:
            for level in levels:
                await asking.post("/predict", files=parts(png(level)))
            await asking.post("/predict", params={"model": "other"}, files=parts(png(9)))
            return (await asking.get("/metrics")).text

    samples = [
        sample
        for family in text_string_to_metric_families(asyncio.run(asked()))
        for sample in family.samples
    ]
    return {
        (sample.name, *(v for k, v in sorted(sample.labels.items()) if k != "model")): sample.value
        for sample in samples
        if sample.labels.get("model") != ""
    } | {"unknown": [s.labels for s in samples if s.labels.get("model") == ""]}


def test_what_was_asked_and_answered():
    levels = [51, 77, 204, 255, 0]  # scores 20, 30.2, 80, 100, and none
    with fake_service.service() as app:
        found = scrape(app, levels)
    assert found["model_request_total", "200"] == 5
    assert {"model": "", "status": "404"} in found["unknown"]  # no name that came from outside
    results = [found["model_image_total", each] for each in ("good", "defective", "unusable")]
    assert results == [2, 2, 1]
    assert found["model_request_latency_seconds_count",] == 5
    assert found["model_request_latency_seconds_bucket", "+Inf"] == 5
    assert ("model_request_latency_seconds_bucket", "0.01") in found
    assert ("model_request_latency_seconds_bucket", "2.5") in found
    assert found["model_requests_in_flight",] == 1  # the scrape itself
    assert found["model_queue_length",] == 0
    assert found["model_score_count",] == 4
    assert found["model_score_sum",] == pytest.approx(100 * (51 + 77 + 204 + 255) / 255)
    assert found["model_score_bucket", "50.0"] == 2  # the threshold is a bound
    assert found["model_score_bucket", "80.0"] in (2, 3)  # the float32 of 80 may lie above it
    assert found["model_score_bucket", "+Inf"] == 4
    scores = [100 * level / 255 for level in levels[:4]]
    wanted = stats.ks_2samp(fake_service.HELD_OUT, scores).statistic
    assert found["model_drift",] == pytest.approx(wanted)
    assert found["model_drift_images",] == 4
    assert found["model_low_p_value_share",] == 0  # the lowest possible is 1 / 5


def test_a_fresh_model_says_nothing_of_drift():
    with fake_service.service() as app:
        found = scrape(app, [])
    assert ("model_drift",) not in found
    assert found["model_drift_images",] == 0


def test_drift_is_of_the_last_images():
    judge = fake_service.detector().judge
    seen = window.Window(judge)
    for distance in np.linspace(60, 90, window.RECENT):
        seen.add(float(distance), 0.05)
    assert seen.drift()[0] == 1
    assert (seen.drift().low, seen.drift().n) == (1, window.RECENT)
    for distance in np.linspace(10.1, 40.1, window.RECENT):
        seen.add(float(distance), 0.5)
    assert seen.drift().statistic == pytest.approx(0.25, abs=0.01)  # steps of four unseen ones
    assert (seen.drift().low, seen.drift().n) == (0, window.RECENT)
    buckets, total = seen.histogram()
    assert buckets[-1] == ("+Inf", 2 * window.RECENT)
    assert total == pytest.approx(window.RECENT * (75 + 25.1))
