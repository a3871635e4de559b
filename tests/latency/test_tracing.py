"""Spans: the field's names, the right times, no user's data; sent by OTLP where the environment says."""

import gzip
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import retrieval
from backends.errors import Unsupported
from ops import latency
from ops.latency.conventions import ModelServer
from ops.latency.tracing import Spans
from retrieval.documents import Usage
from retrieval.observing import Observed
from tests.latency.watching import answered, searched

SERVER = ModelServer("gpu-1", 8000, "vllm")


def spans_of(observed: Observed, *, inside: bool = False, server: ModelServer | None = None) -> list[ReadableSpan]:
    """Return the spans that an observation makes, in the order in which they ended."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    spans = Spans(tracer, lambda: server)
    if inside:
        with tracer.start_as_current_span("request"):
            spans(observed)
    else:
        spans(observed)
    return list(exporter.get_finished_spans())


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def took_ms(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e6


def test_a_search_is_a_retrieval_span() -> None:
    """Its name, kind and attributes are the conventions', and each stage is a span below it, one after the other."""
    before_ns = time.time_ns()
    *stages, search = spans_of(searched(queue=1, embed=8, search=2, corpus=3, total=15))
    assert (search.name, search.kind) == ("retrieval handbook", SpanKind.CLIENT)
    assert search.attributes is not None
    assert search.attributes.items() >= {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.data_source.id": "handbook",
        "gen_ai.retrieval.top_k": 10,
        "db.system.name": "postgresql",
    }.items()  # fmt: skip
    assert [(stage.name, took_ms(stage)) for stage in stages] == [
        ("queue", 1), ("embeddings hashing", 8), ("search", 2), ("corpus", 3),
    ]  # fmt: skip
    assert all(one.end_time == two.start_time for one, two in pairwise(stages))
    assert stages[0].start_time == search.start_time
    assert took_ms(search) == 15
    assert search.end_time is not None
    assert before_ns - 1_000_000 <= search.end_time <= time.time_ns()
    assert search.context is not None
    assert all(stage.parent is not None and stage.parent.span_id == search.context.span_id for stage in stages)
    assert search.status.status_code is StatusCode.UNSET


def test_an_answer_is_a_workflow_of_search_and_chat() -> None:
    """Around the search and the chat with the model is one span, from the question to the end of the answer."""
    search = replace(searched(embed=8, search=2, total=11), for_answer=True)
    spans = spans_of(
        answered(search=search, generate_queue=0, generate_first=40, generate=200, answer=212), server=SERVER
    )
    embed, index, retrieval_, chat, workflow = spans
    assert (workflow.name, workflow.kind, took_ms(workflow)) == (
        "invoke_workflow ragstone generate", SpanKind.INTERNAL, 212,
    )  # fmt: skip
    assert attributes(workflow).items() >= {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.agent.name": "ragstone generate",
        "gen_ai.data_source.id": "handbook",
        "gen_ai.request.stream": True,
    }.items()  # fmt: skip
    assert [parent(one) for one in (retrieval_, chat)] == [span_id(workflow)] * 2
    assert [parent(one) for one in (embed, index)] == [span_id(retrieval_)] * 2
    assert workflow.start_time == retrieval_.start_time
    assert (chat.end_time, took_ms(chat)) == (workflow.end_time, 200)
    assert len({one.context.trace_id for one in spans if one.context}) == 1


def test_the_chat_has_the_conventions_attributes() -> None:
    """The server, the model, what was asked and what came back, and the time to the first chunk in seconds."""
    chat, _ = spans_of(answered(generate_queue=0, generate=200, answer=212), server=SERVER)
    assert (chat.name, chat.kind) == ("chat a-model", SpanKind.CLIENT)
    assert attributes(chat) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.data_source.id": "handbook",
        "gen_ai.request.model": "a-model",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 200,
        "gen_ai.response.model": "a-model",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.05,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 64,
        "server.address": "gpu-1",
        "server.port": 8000,
    }


def test_an_answer_without_a_model_server_has_none() -> None:
    """The extractive generator is in this process."""
    chat, _ = spans_of(answered(generate_queue=0, generate=200, answer=212))
    assert attributes(chat)["gen_ai.provider.name"] == "ragstone"
    assert "server.address" not in attributes(chat)


def test_a_model_that_was_not_asked_has_no_chat() -> None:
    """A question that is refused, and one that found no turn, are the search and nothing after it."""
    never = replace(answered("busy", answer=10), usage=Usage(), first_s=None, generate_s=None)
    search = replace(searched(total=5), for_answer=True)
    assert [one.name for one in spans_of(replace(never, search=search))] == [
        "retrieval handbook", "invoke_workflow ragstone generate",
    ]  # fmt: skip
    refused, *_ = spans_of(replace(never, outcome="ok", refused=True))
    assert attributes(refused)["ragstone.refused"] is True
    assert refused.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("outcome", ["generator_unavailable", "abandoned"])
def test_a_model_that_was_asked_in_vain_has_a_chat(outcome: str) -> None:
    """Nothing came, an error or the end of patience: the span begins with the asking, and says the error."""
    never = replace(answered(outcome, prompt=5, generate_queue=20, answer=100), usage=Usage(), first_s=None)
    chat, workflow = spans_of(replace(never, generate_s=None), server=SERVER)
    assert (chat.name, took_ms(chat), chat.end_time) == ("chat a-model", 75, workflow.end_time)
    assert attributes(chat)["error.type"] == attributes(workflow)["error.type"] == outcome
    assert attributes(chat)["gen_ai.usage.output_tokens"] == 0


def test_an_answer_waits_for_its_turn_before_it_searches() -> None:
    """The search begins after the wait, and the chat after the prompt."""
    search = replace(searched(total=11), for_answer=True)
    broke_off = answered("generator_unavailable", search=search, generate_queue=30, prompt=4, answer=100)
    found, chat, workflow = spans_of(broke_off)
    assert workflow.start_time is not None
    assert [(one.start_time or 0) - workflow.start_time for one in (found, chat)] == [30_000_000, 34_000_000]


@pytest.mark.parametrize("outcome", ["budget_exceeded", "invalid_input"])
def test_an_answer_that_did_not_begin_has_no_chat(outcome: str) -> None:
    """Its search, where there was one, and the error around it."""
    never = replace(answered(outcome, answer=10), usage=Usage(), first_s=None, generate_s=None, finish_reason=None)
    search = replace(searched(total=5), for_answer=True)
    found, workflow = spans_of(replace(never, search=search))
    assert (found.name, workflow.name) == ("retrieval handbook", "invoke_workflow ragstone generate")
    assert attributes(workflow)["error.type"] == outcome
    assert "error.type" not in attributes(found)
    assert [one.name for one in spans_of(replace(never, model=""))] == ["invoke_workflow ragstone generate"]


def test_a_search_for_an_answer_is_told_once() -> None:
    """With its answer, and by itself only where it failed, since no answer follows then."""
    search = replace(searched(total=5), for_answer=True)
    assert spans_of(search) == []
    (failed,) = spans_of(replace(search, outcome="index_unavailable"))
    assert failed.name == "retrieval handbook"


@pytest.mark.parametrize("observed", [searched(outcome="queue_full", total=1), answered("queue_full", answer=1)])
def test_an_error_is_in_the_span(observed: Observed) -> None:
    """error.type is the stable code, and the status says error."""
    for span in spans_of(observed):
        assert attributes(span)["error.type"] == "queue_full"
        assert span.status.status_code is StatusCode.ERROR


def test_a_request_that_is_traced_already_is_its_parent() -> None:
    """Where the caller has a span, ours are below it."""
    *_, search, request = spans_of(searched(total=1), inside=True)
    assert request.context is not None
    assert search.parent is not None
    assert search.parent.span_id == request.context.span_id


def test_no_users_data_is_in_a_span() -> None:
    """Neither filter nor ids nor embedding."""
    assert "secret" not in "".join(span.to_json() for span in spans_of(searched(embed=1, total=2)))


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A server that takes spans by OTLP over HTTP, as a collector does."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the server's name for it
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_spans_arrive_at_a_collector(rag: retrieval.Ragstone, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting `traces`, a search's spans are sent to OTEL_EXPORTER_OTLP_ENDPOINT, at the latest in the end."""
    monkeypatch.setattr(rag, "settings", rag.settings.model_copy(update={"traces": True}))
    traced = rag.create_collection("traced", dimension=2)
    with collector() as (endpoint, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with latency.traced(rag) as layers:
            assert len(layers) == 1
            traced.search([1, 0])
        traced.search([1, 0])
    rag.delete_collection("traced")
    (request,) = received
    (resource,) = request.resource_spans
    assert "ragstone" in {attribute.value.string_value for attribute in resource.resource.attributes}
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["search", "retrieval traced"]


def test_without_opentelemetry_the_setting_says_what_to_install(
    rag: retrieval.Ragstone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package is missing, `traces` is refused with the fix; without the setting nothing is missed."""
    monkeypatch.delitem(sys.modules, "ops.latency.tracing")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with latency.traced(rag) as layers:
        assert layers == []
    monkeypatch.setattr(rag, "settings", rag.settings.model_copy(update={"traces": True}))
    with pytest.raises(Unsupported, match=r"pip install 'ragstone\[otel\]'"), latency.traced(rag):
        pass
    assert not rag.observers
