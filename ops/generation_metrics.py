"""What Prometheus sees of generation: answers, those that wait for their turn, and how the model server does."""

from collections.abc import Iterable
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ops.generation import Telemetry
from ops.generation.engine import EngineWatch
from ops.generation.names import COUNTER, FIGURES
from ops.generation.reading import Reading
from retrieval.generation.breaker import Breaker, State
from retrieval.library import Ragstone

ENGINE_HELP = {
    "running": ("requests_running", "Requests that the model server works on"),
    "waiting": ("requests_waiting", "Requests that wait in the model server"),
    "kv_cache_usage": ("kv_cache_usage_ratio", "Share of the model server's KV cache that is in use"),
    "preemptions": ("preemptions", "Requests that lost their place in the KV cache and began again"),
    "prompt_tokens": ("prompt_tokens", "Tokens of prompts that the model server processed"),
    "generation_tokens": ("generation_tokens", "Tokens that it generated"),
    "prefix_queries": ("prefix_cache_queries", "Tokens of prompts that were looked up in its prefix cache"),
    "prefix_hits": ("prefix_cache_hits", "Those that were found there (TensorRT-LLM counts blocks)"),
    "prefix_misses": ("prefix_cache_misses", "Those that were not, where the server counts these"),
    "kv_evictions": ("kv_evictions", "Blocks of the KV cache that were given up, of those that the server samples"),
    "rejections": ("rejections", "Requests that the model server did not take"),
}
"""Our names of its figures. What a server does not tell is not exported."""


class GenerationMetrics(Collector):
    """Reads at each scrape what is counted anyway; it asks no server."""

    def __init__(self, rag: Ragstone, telemetry: Telemetry) -> None:
        self._rag = rag
        self._telemetry = telemetry

    def collect(self) -> Iterable[Metric]:
        yield from self._telemetry.answers.collect()
        yield from _of_admission(self._rag)
        breaker = getattr(vars(self._rag).get("generator"), "breaker", None)  # asking for it would load models
        if isinstance(breaker, Breaker):
            yield from _of_breaker(breaker)
        if self._telemetry.engine is not None:
            yield from _of_engine(self._telemetry.engine)


def _of_admission(rag: Ragstone) -> Iterable[Metric]:
    stats, settings = rag.admission.stats(), rag.settings
    yield _gauge("generation_running", "Answers that are generated now", stats.running)
    yield _gauge("generation_waiting", "Answers that wait for their turn", stats.waiting)
    yield _gauge("generation_places", "Answers that may be generated at once", settings.generations_running)
    yield _gauge("generation_waiting_places", "Answers that may wait", settings.generations_waiting)
    yield _counter("generation_admitted", "Answers that had their turn", stats.admitted)
    yield _counter("generation_refused", "Answers refused because too many waited, or for too long", stats.refused)
    yield _counter("generation_wait_seconds", "What answers waited for their turn, together", stats.waited_s)


def _of_breaker(breaker: Breaker) -> Iterable[Metric]:
    family = GaugeMetricFamily(
        "ragstone_generation_breaker_state", "1 for the state of the breaker before the model server", labels=["state"]
    )
    now = breaker.state
    for state in get_args(State):
        family.add_metric([state], int(state == now))
    yield family
    yield _counter("generation_breaker_failures", "Failures of the model server", breaker.failed)
    yield _counter("generation_breaker_opened", "How often the breaker opened", breaker.opened)
    yield _counter("generation_breaker_refused", "Requests that were not tried, since it was open", breaker.refused)


def _of_engine(engine: EngineWatch) -> Iterable[Metric]:
    if engine.state in ("read", "away"):
        yield _gauge("engine_up", "Whether the model server gave its metrics when last asked", engine.state == "read")
    yield _counter("engine_restarts", "How often its counters were seen to begin anew", engine.restarts)
    if engine.last is None:
        return
    yield _gauge("engine_last_read_timestamp_seconds", "When its metrics were last read", engine.read_at or 0.0)
    yield from _of_reading(engine.last)


def _of_reading(reading: Reading) -> Iterable[Metric]:
    for figure, (name, help_) in ENGINE_HELP.items():
        if figure in reading.values:
            family = _counter if FIGURES[figure].kind == COUNTER else _gauge
            yield family(f"engine_{name}", help_, reading.values[figure])
    finished = CounterMetricFamily(
        "ragstone_engine_requests_finished", "Requests that ended in the model server", labels=["reason"]
    )
    for reason, count in sorted(reading.finished.items()):
        finished.add_metric([reason], count)
    yield finished


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"ragstone_{name}", help_, value=value)


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(f"ragstone_{name}", help_, value=value)
