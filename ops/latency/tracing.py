"""OpenTelemetry spans: of requests as they run, of searches and answers out of what observers are told of them."""

import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ops.latency import conventions
from ops.latency.conventions import ERROR_TYPE, STAGES_IN_ORDER, WORKFLOW, Attributes, ModelServer
from ops.latency.stages import ASKED
from retrieval.observing import AnswerObserved, Observed, SearchObserved
from retrieval.propagation import handing_on

SCOPE = "ragstone"
QUIET_ROUTES = frozenset({"/metrics", "/health/live", "/health/ready"})
"""What keepers ask every few seconds: no traces of that."""

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@contextmanager
def tracing() -> Iterator[Tracer]:
    """Give a tracer, and send the last of its spans in the end.

    They go to the tracer provider that the program has set, else by OTLP over HTTP to where the environment says:
    OTEL_EXPORTER_OTLP_ENDPOINT, http://localhost:4318 where that is not set.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, trace.ProxyTracerProvider):
        yield provider.get_tracer(SCOPE, version("ragstone"))
        return
    ours = TracerProvider(resource=Resource.create({SERVICE_NAME: SCOPE}))
    ours.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield ours.get_tracer(SCOPE, version("ragstone"))
    finally:
        ours.shutdown()


class TracedRequests:
    """An ASGI layer: a span for each request, below the one that its `traceparent` names.

    What is observed while it runs lies below it, and the model server is told of it.
    """

    def __init__(self, app: App, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in QUIET_ROUTES:
            await self._app(scope, receive, send)
            return
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        # Ended by hand: the route and the status are known only afterwards.
        span = self._tracer.start_span(
            scope["method"],
            context=_PROPAGATOR.extract(scope, getter=_HEADERS),
            kind=SpanKind.SERVER,
            attributes=conventions.of_request(scope["method"], scope.get("scheme", "http")),
        )
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False), handing_on(_carrier()):
                await self._app(scope, receive, sending)
        except BaseException as error:
            span.set_attribute(ERROR_TYPE, type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            _end_request(span, scope, status)


def _end_request(span: Span, scope: Scope, status: int) -> None:
    route = getattr(scope.get("route"), "path_format", "")
    span.update_name(f"{scope['method']} {route}".rstrip())
    span.set_attributes(conventions.of_response(route, status))
    if status >= 500:
        span.set_attribute(ERROR_TYPE, str(status))
        span.set_status(Status(StatusCode.ERROR))
    span.end()


class _ScopeHeaders(Getter[Scope]):
    """Reads the headers of an ASGI scope."""

    def get(self, carrier: Scope, key: str) -> list[str] | None:
        wanted = key.lower().encode("latin-1")
        return [value.decode("latin-1") for name, value in carrier["headers"] if name == wanted] or None

    def keys(self, carrier: Scope) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier["headers"]]


# Of all that can be propagated, this alone: a caller's baggage is nothing to the model server.
_PROPAGATOR = TraceContextTextMapPropagator()
_HEADERS = _ScopeHeaders()


def _carrier() -> dict[str, str]:
    """Return the headers that name the current span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier


class Spans:
    """An observer: one span a search, with one below it for each stage.

    An answer is a span around its search and the chat with the model. Where the request has a span, they are below it.
    """

    def __init__(self, tracer: Tracer, server: Callable[[], ModelServer | None] = lambda: None) -> None:
        """`server` says who is asked for answers."""
        self._tracer = tracer
        self._server = server

    def __call__(self, observed: Observed) -> None:
        now_ns = time.time_ns()
        if isinstance(observed, AnswerObserved):
            self._answer(observed, now_ns - _ns(observed.timings_ms.get("answer", 0)))
        elif not observed.for_answer or observed.outcome != "ok":  # the answer tells of it, where there is one
            self._search(observed, now_ns - _ns(observed.timings_ms.get("total", 0)))

    def _search(self, observed: SearchObserved, at_ns: int, around: Context | None = None) -> None:
        name, took_ns = observed.collection.name, _ns(observed.timings_ms.get("total", 0))
        span = self._start(f"retrieval {name}", at_ns, around, conventions.of_search(observed))
        below, stage_ns = trace.set_span_in_context(span), at_ns
        for stage in (stage for stage in STAGES_IN_ORDER if stage in observed.timings_ms):
            title, attributes = conventions.of_embedding(observed) if stage == "embed" else (stage, {})
            child = self._start(title, stage_ns, below, attributes, SpanKind.INTERNAL)
            stage_ns += _ns(observed.timings_ms[stage])
            child.end(stage_ns)
        _end(span, observed.outcome, at_ns + took_ns)

    def _answer(self, observed: AnswerObserved, at_ns: int) -> None:
        ended_ns = at_ns + _ns(observed.timings_ms.get("answer", 0))
        name, attributes = f"invoke_workflow {WORKFLOW}", conventions.of_workflow(observed)
        span = self._start(name, at_ns, None, attributes, SpanKind.INTERNAL)
        around = trace.set_span_in_context(span)
        if observed.search is not None:
            waited_ns = _ns(observed.timings_ms.get(ASKED, 0))  # for its turn, before anything was searched
            self._search(observed.search, at_ns + waited_ns, around)
        if ASKED in observed.timings_ms:
            chat = self._start(
                f"chat {observed.model}".rstrip(),
                at_ns + _ns(_before_chat_ms(observed)),
                around,
                conventions.of_chat(observed, self._server()),
            )
            _end(chat, observed.outcome, ended_ns)
        _end(span, observed.outcome, ended_ns)

    def _start(
        self, name: str, at_ns: int, around: Context | None, attributes: Attributes, kind: SpanKind = SpanKind.CLIENT
    ) -> Span:
        return self._tracer.start_span(name, context=around, kind=kind, start_time=at_ns, attributes=attributes)


def _before_chat_ms(observed: AnswerObserved) -> float:
    """What went before the model was asked."""
    timings_ms = observed.timings_ms
    if "generate" in timings_ms:
        return max(timings_ms["answer"] - timings_ms["generate"], 0.0)
    return sum(timings_ms.get(stage, 0.0) for stage in (*STAGES_IN_ORDER, "prompt", ASKED))


def _end(span: Span, outcome: str, ended_ns: int) -> None:
    if outcome != "ok":
        span.set_attribute(ERROR_TYPE, outcome)
        span.set_status(Status(StatusCode.ERROR))
    span.end(ended_ns)


def _ns(duration_ms: float) -> int:
    return round(duration_ms * 1_000_000)
