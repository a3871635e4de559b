"""OpenTelemetry spans of searches and answers, made from what observers are told.

The names are those of the semantic conventions for generative AI, version 0.1.0, which are still in development; they
all stand in this file. https://github.com/open-telemetry/semantic-conventions-genai
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from retrieval.observing import AnswerObserved, Observed, SearchObserved

SCOPE = "ragstone"
DATABASE_SYSTEMS = {"pgvector": "postgresql"}
"""The backends that OpenTelemetry knows under another name."""
STAGES_IN_ORDER = ("queue", "embed", "search", "corpus")

Attributes = dict[str, str | int | float | bool]


@contextmanager
def spans() -> Iterator["Spans"]:
    """Give an observer that makes spans, and send the last of them in the end.

    They go to the tracer provider that the program has set, else by OTLP over HTTP to where the environment says:
    OTEL_EXPORTER_OTLP_ENDPOINT, http://localhost:4318 where that is not set.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, trace.ProxyTracerProvider):
        yield Spans(provider.get_tracer(SCOPE, version("ragstone")))
        return
    ours = TracerProvider(resource=Resource.create({SERVICE_NAME: SCOPE}))
    ours.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield Spans(ours.get_tracer(SCOPE, version("ragstone")))
    finally:
        ours.shutdown()


class Spans:
    """An observer: one span a search, with one below it for each stage, and one span an answer.

    No query, text or id is in them. Where the request has a span already, they are below that.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def __call__(self, observed: Observed) -> None:
        if isinstance(observed, SearchObserved):
            self._search(observed)
        else:
            self._answer(observed)

    def _search(self, observed: SearchObserved) -> None:
        timings_ms, name = observed.timings_ms, observed.collection.name
        started_ns = time.time_ns() - _ns(timings_ms.get("total", 0))
        below = trace.set_span_in_context(
            span := self._tracer.start_span(
                f"retrieval {name}",
                kind=SpanKind.CLIENT,
                start_time=started_ns,
                attributes=_of_search(observed),
            )
        )
        at_ns = started_ns
        for stage in (stage for stage in STAGES_IN_ORDER if stage in timings_ms):
            title, attributes = _of_embedding(observed) if stage == "embed" else (stage, {})
            child = self._tracer.start_span(title, context=below, start_time=at_ns, attributes=attributes)
            at_ns += _ns(timings_ms[stage])
            child.end(at_ns)
        _end(span, observed.outcome, started_ns + _ns(timings_ms.get("total", 0)))

    def _answer(self, observed: AnswerObserved) -> None:
        took_ns = _ns(observed.timings_ms.get("answer", 0))
        started_ns = time.time_ns() - took_ns
        span = self._tracer.start_span(
            f"chat {observed.model}".rstrip(),
            kind=SpanKind.CLIENT,
            start_time=started_ns,
            attributes=_of_answer(observed),
        )
        _end(span, observed.outcome, started_ns + took_ns)


def _of_search(observed: SearchObserved) -> Attributes:
    return {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.data_source.id": observed.collection.name,
        "db.system.name": DATABASE_SYSTEMS.get(observed.backend, observed.backend),
        "db.collection.name": observed.collection.name,
        "db.response.returned_rows": len(observed.ids),
        "ragstone.backend": observed.backend,
        "gen_ai.retrieval.top_k": observed.top_k,
        "ragstone.exact": observed.exact,
        "ragstone.filtered": observed.filter is not None,
    }


def _of_embedding(observed: SearchObserved) -> tuple[str, Attributes]:
    stamp: Mapping[str, Mapping[str, str]] = observed.collection.stamp or {}
    model = stamp.get("embedder", {}).get("model", "")
    return f"embeddings {model}", {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": model}


def _of_answer(observed: AnswerObserved) -> Attributes:
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.data_source.id": observed.collection.name,
        "gen_ai.response.model": observed.model,
        "gen_ai.usage.input_tokens": observed.prompt_tokens,
        "gen_ai.usage.output_tokens": observed.completion_tokens,
    }
    if "generate_first" in observed.timings_ms:
        attributes["gen_ai.response.time_to_first_chunk"] = observed.timings_ms["generate_first"] / 1000
    return attributes


def _end(span: trace.Span, outcome: str, ended_ns: int) -> None:
    if outcome != "ok":
        span.set_attribute("error.type", outcome)
        span.set_status(Status(StatusCode.ERROR))
    span.end(ended_ns)


def _ns(duration_ms: float) -> int:
    return round(duration_ms * 1_000_000)
