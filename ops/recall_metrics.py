"""What Prometheus sees of recall: how each collection stands, by backend and band of filter selectivity."""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ops.recall.capture import Capture
from ops.recall.watching import Standing, standings
from ops.scraping import BoundedLook
from retrieval.library import Ragstone

LOOK_EVERY_S = 15.0
COLLECTIONS = 50
"""Collections that are exported: those whose recall was measured on the most queries. A label is a bounded set."""


class RecallMetrics(Collector):
    """Looks into the corpus now and then; where that does not answer in time, tells what was known before."""

    def __init__(self, rag: Ragstone, capture: Capture | None = None) -> None:
        self.look = BoundedLook[Sequence[Standing]]("recall", lambda: standings(rag.database, rag), (), LOOK_EVERY_S)
        self._capture = capture

    def collect(self) -> Iterable[Metric]:
        yield from _of_standings(exported(self.look.value()))
        if self._capture is not None:
            captured = "Searches that were kept, so that recall is measured on them"
            yield CounterMetricFamily("ragstone_recall_captured", captured, value=self._capture.captured)
            dropped = "Searches that were to be kept and could not be"
            yield CounterMetricFamily("ragstone_recall_dropped", dropped, value=self._capture.dropped)


def exported(known: Sequence[Standing], most: int = COLLECTIONS) -> list[Standing]:
    """Return how the collections stand that were measured on the most queries."""
    queries: dict[str, int] = {}
    for standing in known:
        queries[standing.collection] = queries.get(standing.collection, 0) + standing.recall.queries
    kept = set(sorted(queries, key=lambda name: (-queries[name], name))[:most])
    return [standing for standing in known if standing.collection in kept]


def _of_standings(known: Sequence[Standing]) -> Iterable[Metric]:
    if not known:
        return
    told: dict[str, tuple[str, Callable[[Standing], float]]] = {
        "mean": ("Mean recall of the newest queries that were measured", lambda one: one.recall.mean),
        "low": ("Lower end of its 95% interval", lambda one: one.recall.low),
        "high": ("Upper end of its 95% interval", lambda one: one.recall.high),
        "p5": ("5th percentile of the recall of a query", lambda one: one.recall.p5),
        "queries": ("Queries that these figures are of", lambda one: one.recall.queries),
        "below_target": ("Whether the whole interval lies below the collection's target", lambda one: int(one.below)),
    }
    for name, (help_, value) in told.items():
        family = GaugeMetricFamily(f"ragstone_recall_{name}", help_, labels=["collection", "backend", "band"])
        for one in known:
            family.add_metric([one.collection, one.backend, one.band], value(one))
        yield family
