"""What Prometheus sees of latencies: this process's histograms, in classic buckets."""

from collections.abc import Iterable

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ops.latency.histogram import Histogram
from ops.latency.recording import Key, LatencyRecorder
from ops.latency.stages import STAGES

BOUNDS_MS = (0.125, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 4e3, 8e3, 16e3, 32e3, 64e3, 128e3)
"""Each is a bound of a log-linear bucket too, so that nothing is counted on the wrong side."""
_BOUNDS_S = [str(bound_ms / 1000) for bound_ms in BOUNDS_MS]


class LatencyMetrics(Collector):
    """Reads a recorder at each scrape."""

    def __init__(self, recorder: LatencyRecorder) -> None:
        self._recorder = recorder

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(
            "ragstone_stage_duration_seconds", "What each stage of a search or an answer took", labels=Key._fields
        )
        for key, histogram in sorted(self._recorder.histograms().items()):
            if key.stage in STAGES:  # those by length are among the metrics of generation
                family.add_metric(key, _buckets(histogram), histogram.sum_ms / 1000)
        yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    counts = histogram.counts_up_to(BOUNDS_MS)
    return [*zip(_BOUNDS_S, counts, strict=True), ("+Inf", histogram.count)]
