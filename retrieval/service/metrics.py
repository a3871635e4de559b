"""What Prometheus sees: requests, the connection pool, the batcher, what collectors add. Labels are bounded sets."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from retrieval.embedding.batching import Batcher, BatcherStats
from retrieval.library import Ragstone
from retrieval.service.failures import CLIENT_GONE

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
REQUEST_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SEARCHES_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
POOL_GAUGES = {
    "pool_size": "Connections to PostgreSQL that are open",
    "pool_available": "Connections that wait to be used",
    "requests_waiting": "Callers that wait for a connection",
}

BATCHER_COUNTERS = {
    "passes": "Forward passes of the embedding model",
    "texts": "Texts that went through the model",
    "tokens": "Their tokens",
    "splits": "Batches that did not fit into memory",
    "refused": "Queries refused because too many were waiting",
    "cache_hits": "Queries whose embedding was remembered",
    "cache_misses": "Queries whose embedding was not",
}


class Metrics:
    """One service's metrics, in a registry of its own, so that two services in a process do not mix.

    `collectors` are asked at each scrape beside its own. One that raises fails the scrape.
    """

    def __init__(self, rag: Ragstone, collectors: Sequence[Collector] = ()) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "ragstone_http_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self._durations = Histogram(
            "ragstone_http_request_duration_seconds",
            "From the request's first line to the last byte of its answer",
            ["method", "route"],
            buckets=REQUEST_BUCKETS_S,
            registry=self.registry,
        )
        self._searches = Histogram(
            "ragstone_searches_at_once",
            "Searches with an embedding that were answered together",
            buckets=SEARCHES_BUCKETS,
            registry=self.registry,
        )
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        ProcessCollector(registry=self.registry)
        for collector in (_Resources(rag), *collectors):
            self.registry.register(collector)

    def request(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count a request; `route` is the route's template, never the path that was asked for."""
        labels = method if method in METHODS else "other", route, status or CLIENT_GONE
        requests, durations = self._known.get(labels) or self._meet(*labels)
        requests.inc()
        durations.observe(took_s)

    def searches(self, count: int) -> None:
        """Count searches that are answered together."""
        self._searches.observe(count)

    def _meet(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        """Find what counts these, and remember it: the client looks for it anew each time, behind a lock."""
        found = self._requests.labels(method, route, str(status)), self._durations.labels(method, route)
        self._known[method, route, status] = found
        return found

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Resources(Collector):
    """Read when asked, from those who keep count themselves."""

    def __init__(self, rag: Ragstone) -> None:
        self._rag = rag

    def collect(self) -> Iterable[Metric]:
        pool = self._rag.database.pool_stats()
        for name, help_ in POOL_GAUGES.items():
            yield GaugeMetricFamily(f"ragstone_database_{name}", help_, value=pool.get(name, 0))
        batcher = vars(self._rag).get("embedder")  # asking for the property would load the model
        if isinstance(batcher, Batcher):
            yield from _of_batcher(batcher.stats())


def _of_batcher(stats: BatcherStats) -> Iterable[Metric]:
    for name, help_ in BATCHER_COUNTERS.items():
        yield CounterMetricFamily(f"ragstone_embedder_{name}", help_, value=getattr(stats, name))
    yield CounterMetricFamily("ragstone_embedder_busy_seconds", "What the passes took together", value=stats.busy_s)
    waiting = GaugeMetricFamily("ragstone_embedder_waiting_texts", "Texts that wait for the model", labels=["kind"])
    waiting.add_metric(["query"], stats.waiting_queries)
    waiting.add_metric(["passage"], stats.waiting_passages)
    yield waiting
