"""What Prometheus reads at /metrics."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cae_jax.serving.detector import Verdict
from cae_jax.serving.service.answers import status_of
from cae_jax.serving.service.models import Models, Served
from cae_jax.serving.service.window import Drift

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The metrics of one service, in a registry of their own; of the event loop's thread."""

    def __init__(self, models: Models) -> None:
        """Takes the models, which are read when the metrics are."""
        self._registry = registry = CollectorRegistry()
        self.in_flight = Gauge("model_requests_in_flight", "Requests under way", registry=registry)
        self._requests = Counter(
            "model_request", "Requests to judge", ["model", "status"], registry=registry
        )
        self._images = Counter(
            "model_image", "Images by what became of them", ["model", "result"], registry=registry
        )
        self._seconds = Histogram(
            "model_request_latency_seconds",
            "From a request's first byte to its answer",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        registry.register(_OfModels(models))

    @contextlib.contextmanager
    def request(self) -> Iterator[list[str]]:
        """Counts a request and its seconds under the model's name that the block appends."""
        began, names, status = time.perf_counter(), [""], 200
        try:
            yield names
        except BaseException as error:
            status = status_of(error)
            raise
        finally:
            self._requests.labels(names[-1], str(status)).inc()
            self._seconds.labels(names[-1]).observe(time.perf_counter() - began)

    def judged(self, served: Served, verdict: Verdict) -> None:
        """Counts an image that was judged."""
        served.window.add(verdict.distance, verdict.p_value)
        result = "defective" if verdict.defective else "good"
        self._images.labels(served.name, result).inc()

    def unusable(self, served: Served) -> None:
        """Counts an image that could not be judged."""
        self._images.labels(served.name, "unusable").inc()

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _OfModels(Collector):
    """What the models themselves know, read at each scrape."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._states()
        yield self._scores()
        yield from _drifts([(each.name, each.window.drift()) for each in self._models.served])

    def _states(self) -> Iterator[Metric]:
        info = InfoMetricFamily("model", "What is served", labels=["model"])
        waiting = GaugeMetricFamily("model_queue_length", "Images that wait", labels=["model"])
        taken = GaugeMetricFamily("model_images_in_flight", "Images under way", labels=["model"])
        ready = GaugeMetricFamily("model_ready", "Whether it is loaded", labels=["model"])
        reloads = CounterMetricFamily(
            "model_reload", "Replaced folders, loaded or not", labels=["model", "result"]
        )
        there = {each.name: each for each in self._models.served}
        for name in self._models.names:
            ready.add_metric([name], float(name in there))
            for result in ("ok", "failed"):
                reloads.add_metric([name, result], self._models.reloads[name, result])
        for name, each in there.items():
            model = each.detector.model
            known = {"title", "category", "method", "version", "distance", "runtime"}
            fields = model._asdict()
            info.add_metric([name], {key: str(fields[key]) for key in sorted(known)})
            waiting.add_metric([name], each.worker.waiting)
            taken.add_metric([name], each.worker.taken)
        yield from (info, waiting, taken, ready, reloads)

    def _scores(self) -> Metric:
        scores = HistogramMetricFamily(
            "model_score", "Scores of images; the bounds are each model's own", labels=["model"]
        )
        for each in self._models.served:
            buckets, total = each.window.histogram()
            scores.add_metric([each.name], buckets, total)
        return scores


def _drifts(found: list[tuple[str, Drift]]) -> Iterator[Metric]:
    for name, about, values in (
        (
            "model_drift",
            "Kolmogorov-Smirnov statistic of the last scores and those of unseen good images",
            [(model, each.statistic) for model, each in found],
        ),
        (
            "model_drift_limit",
            "What model_drift exceeds one time in a hundred when nothing has drifted",
            [(model, each.limit) for model, each in found],
        ),
        (
            "model_low_p_value_share",
            "Share of the last images with a p-value up to 0.1; of good ones up to 0.1 is expected",
            [(model, each.low) for model, each in found],
        ),
        (
            "model_drift_images",
            "The last images that drift is told from",
            [(model, float(each.n)) for model, each in found],
        ),
    ):
        gauge = GaugeMetricFamily(name, about, labels=["model"])
        for model, value in values:
            if math.isfinite(value):
                gauge.add_metric([model], value)
        yield gauge
