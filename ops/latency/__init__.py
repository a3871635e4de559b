"""Latencies: counted while requests run, kept in the corpus, reported as percentiles that are honest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from backends.errors import Unsupported
from ops.latency.conventions import ModelServer
from ops.latency.recording import LatencyRecorder
from ops.latency.slow import SlowSearches
from retrieval.library import Ragstone
from retrieval.observing import Observer

Layer = Callable[..., Any]
"""Makes an ASGI application out of another."""
PORTS = {"http": 80, "https": 443}


@contextmanager
def record(rag: Ragstone) -> Iterator[LatencyRecorder]:
    """Count the latencies of a corpus while the block runs, and keep its slow searches."""
    recorder, slow = LatencyRecorder(rag.database), SlowSearches(rag)
    with recorder.running(), slow.running(), _observing(rag, recorder), _observing(rag, slow):
        yield recorder


@contextmanager
def traced(rag: Ragstone, provider: Callable[[], str] = lambda: "openai") -> Iterator[list[Layer]]:
    """With the setting `traces`, send spans to OpenTelemetry while the block runs; without it do nothing.

    Gives the layers that a service needs for spans of its requests. `provider` says what kind of server answers.
    Raises Unsupported where OpenTelemetry is not installed.
    """
    if not rag.settings.traces:
        yield []
        return
    try:
        from ops.latency.tracing import Spans, TracedRequests, tracing
    except ModuleNotFoundError as error:
        raise Unsupported(f"traces needs OpenTelemetry ({error.name}): pip install 'ragstone[otel]'") from error
    with tracing() as tracer, _observing(rag, Spans(tracer, partial(_server, rag, provider))):
        yield [partial(TracedRequests, tracer=tracer)]


@contextmanager
def _observing(rag: Ragstone, observer: Observer) -> Iterator[None]:
    rag.observers.add(observer)
    try:
        yield
    finally:
        rag.observers.remove(observer)


def _server(rag: Ragstone, provider: Callable[[], str]) -> ModelServer | None:
    url = urlsplit(rag.settings.generator_url or "")
    if not url.hostname:
        return None
    return ModelServer(url.hostname, url.port or PORTS.get(url.scheme, 80), provider())
