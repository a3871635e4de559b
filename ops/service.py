"""The HTTP service with everything that an operator sees of it: what is recorded, checked, moved and exported."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ops import costs, generation, latency, recall
from ops.backup_metrics import BackupMetrics
from ops.cost_metrics import CostMetrics
from ops.generation_metrics import GenerationMetrics
from ops.health_metrics import HealthMetrics
from ops.latency.exposition import LatencyMetrics
from ops.placing import PlacementKeeper
from ops.recall_metrics import RecallMetrics
from ops.serving import leave_to_itself
from retrieval.library import Ragstone
from retrieval.service import Middleware, create_app

App = Callable[..., object]
"""An ASGI application."""


@contextmanager
def service(rag: Ragstone) -> Iterator[App]:
    """Give the service over a corpus, and keep it while the block runs."""
    with (
        latency.record(rag) as latencies,
        generation.running(rag) as telemetry,
        latency.traced(rag, lambda: telemetry.provider) as layers,
        recall.running(rag) as capture,
        costs.running(rag) as spending,
        PlacementKeeper(rag).running(),
        HealthMetrics(rag, rag.settings.health_every_s).running() as health,
    ):
        collectors = [
            BackupMetrics(rag.database),
            LatencyMetrics(latencies),
            GenerationMetrics(rag, telemetry),
            RecallMetrics(rag, capture),
            CostMetrics(rag, spending),
            health,
        ]
        middleware = [Middleware(layer) for layer in layers]
        yield create_app(rag, collectors=collectors, middleware=middleware, warmed=leave_to_itself)
