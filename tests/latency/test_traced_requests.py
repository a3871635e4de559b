"""One trace from the request to the model: through the service, over real connections."""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import retrieval
from backends.errors import GeneratorUnavailable
from ops.latency.conventions import ModelServer
from ops.latency.tracing import Spans, TracedRequests
from retrieval.documents import Usage
from retrieval.generation.base import Ending, Generator, Prompt, Stream
from retrieval.propagation import handing_on, outgoing_headers
from retrieval.service import Middleware, create_app
from tests.latency.test_tracing import attributes, parent, span_id
from tests.service.serving import served

TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01"
ANSWER = ["retrieval traced", "chat speaker", "invoke_workflow ragstone generate"]


class Speaker(Generator):
    """Says two words, then fails, waits or ends as it is told, and keeps the headers that it would have sent."""

    model = "speaker"

    def __init__(self) -> None:
        self.headers: list[Mapping[str, str]] = []
        self.fails: Exception | None = None
        self.going = threading.Event()
        self.going.set()
        self.closed = threading.Event()

    def stream(self, prompt: Prompt, max_tokens: int | None) -> Stream:
        self.headers.append(dict(outgoing_headers()))
        try:
            yield "thirty"
            yield " days"
            while not self.going.wait(0.02):
                yield " and"
            if self.fails is not None:
                raise self.fails
            yield Ending(usage=Usage(prompt_tokens=100, completion_tokens=2), finish_reason="stop")
        finally:
            self.closed.set()


class Place:
    """A service, what it answers with, and the spans that it has ended."""

    def __init__(self, url: str, speaker: Speaker, exporter: InMemorySpanExporter) -> None:
        self.url, self.speaker, self._exporter = url, speaker, exporter

    def ask(self, stream: bool = False, **headers: str) -> httpx.Response:
        body = {"query": "How many days of leave?", "stream": stream}
        return httpx.post(f"{self.url}/v1/collections/traced/generate", json=body, headers=headers, timeout=30)

    def spans(self, count: int) -> list[ReadableSpan]:
        """Wait for so many spans, those of stages aside; the last of all is the request's."""
        until_s = time.monotonic() + 10
        while True:
            ended = [one for one in self._exporter.get_finished_spans() if one.name not in STAGES]
            if len(ended) >= count or time.monotonic() > until_s:
                assert len(ended) == count, [one.name for one in ended]
                return ended
            time.sleep(0.01)


STAGES = {"queue", "embeddings hashing", "search"}


@pytest.fixture
def place(rag: retrieval.Ragstone, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer, speaker = provider.get_tracer("test"), Speaker()
    monkeypatch.setitem(rag.__dict__, "generator", speaker)
    monkeypatch.setattr(rag, "settings", rag.settings.model_copy(update={"refusal_score": -1.0}))
    rag.create_collection("traced").upsert([retrieval.Document(id="leave", text="Thirty days of leave a year.")])
    spans = Spans(tracer, lambda: ModelServer("gpu-1", 8000))
    rag.observers.add(spans)
    with served(create_app(rag, middleware=[Middleware(TracedRequests, tracer=tracer)])) as url:
        yield Place(url, speaker, exporter)
    rag.observers.remove(spans)
    rag.delete_collection("traced")


@pytest.mark.parametrize("stream", [False, True])
def test_one_trace_from_the_request_to_the_model(place: Place, stream: bool) -> None:
    """Streamed or whole: all spans are of the caller's trace, each below the one that it belongs to."""
    assert place.ask(stream, traceparent=TRACEPARENT).status_code == 200
    search, chat, workflow, request = place.spans(4)
    assert [search.name, chat.name, workflow.name] == ANSWER
    assert (request.name, request.kind) == ("POST /v1/collections/{name}/generate", SpanKind.SERVER)
    assert {one.context.trace_id for one in (search, chat, workflow, request) if one.context} == {TRACE_ID}
    assert parent(request) == SPAN_ID
    assert parent(workflow) == span_id(request)
    assert parent(search) == parent(chat) == span_id(workflow)
    assert attributes(request) == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": "/v1/collections/{name}/generate",
        "http.response.status_code": 200,
    }
    assert attributes(workflow)["gen_ai.request.stream"] is stream
    assert attributes(chat)["gen_ai.usage.output_tokens"] == 2


def test_the_model_server_is_told_of_the_trace(place: Place) -> None:
    """What goes to it names our request's span as its parent, with the caller's state and without its baggage."""
    place.ask(traceparent=TRACEPARENT, tracestate="vendor=1", baggage="secret=1")
    *_, request = place.spans(4)
    (headers,) = place.speaker.headers
    assert headers == {"traceparent": f"00-{TRACE_ID:032x}-{span_id(request):016x}-01", "tracestate": "vendor=1"}


@pytest.mark.parametrize("given", [{}, {"traceparent": "nonsense"}, {"traceparent": "00-" + "0" * 32 + "-1-01"}])
def test_without_a_parent_a_trace_begins_here(place: Place, given: dict[str, str]) -> None:
    """Nothing, and nothing that can be read, is the same."""
    place.ask(**given)
    spans = place.spans(4)
    assert parent(spans[-1]) is None
    assert len({one.context.trace_id for one in spans if one.context}) == 1


def test_requests_at_once_do_not_mix(place: Place) -> None:
    """Ten callers, each with a trace of its own, streamed at the same time."""

    async def ask_all() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            await asyncio.gather(*(
                client.post(
                    f"{place.url}/v1/collections/traced/generate",
                    json={"query": "How many days?", "stream": True},
                    headers={"traceparent": f"00-{number:032x}-{number:016x}-01"},
                )
                for number in range(1, 11)
            ))  # fmt: skip

    asyncio.run(ask_all())
    by_trace: dict[int, list[str]] = {}
    for one in place.spans(40):
        assert one.context is not None
        by_trace.setdefault(one.context.trace_id, []).append(one.name)
    assert by_trace.keys() == set(range(1, 11))
    assert {tuple(names) for names in by_trace.values()} == {(*ANSWER, "POST /v1/collections/{name}/generate")}


def test_an_answer_that_nobody_waits_for(place: Place) -> None:
    """The caller goes away midway: workflow and chat say so, in its trace."""
    place.speaker.going.clear()
    url = f"{place.url}/v1/collections/traced/generate"
    body = {"query": "How many days?", "stream": True}
    with httpx.stream("POST", url, json=body, headers={"traceparent": TRACEPARENT}) as response:
        next(response.iter_raw())
    assert place.speaker.closed.wait(10)
    _, chat, workflow, request = place.spans(4)
    assert {one.context.trace_id for one in (chat, workflow, request) if one.context} == {TRACE_ID}
    for one in (chat, workflow):
        assert (attributes(one)["error.type"], one.status.status_code) == ("abandoned", StatusCode.ERROR)
    assert parent(workflow) == span_id(request)


@pytest.mark.parametrize(("stream", "status"), [(False, 503), (True, 200)])
def test_an_answer_that_fails(place: Place, stream: bool, status: int) -> None:
    """The model breaks off: chat and workflow have the error's code; the request its status, once that is out."""
    place.speaker.fails = GeneratorUnavailable("it is gone")
    assert place.ask(stream, traceparent=TRACEPARENT).status_code == status
    _, chat, workflow, request = place.spans(4)
    for one in (chat, workflow):
        assert (attributes(one)["error.type"], one.status.status_code) == ("generator_unavailable", StatusCode.ERROR)
    assert attributes(request)["http.response.status_code"] == status
    assert attributes(request).get("error.type") == (None if stream else "503")
    assert request.status.status_code is (StatusCode.UNSET if stream else StatusCode.ERROR)


def test_a_search_is_a_trace_as_well(place: Place) -> None:
    """Without an answer it is told by itself; what is wrong with a request is no error of ours."""
    httpx.post(f"{place.url}/v1/collections/traced/retrieve", json={"query": "leave"}).raise_for_status()
    search, request = place.spans(2)
    assert (search.name, parent(search)) == ("retrieval traced", span_id(request))
    assert httpx.get(f"{place.url}/v1/collections/secret-name").status_code == 404
    missing = place.spans(3)[-1]
    assert (missing.name, missing.status.status_code) == ("GET /v1/collections/{name}", StatusCode.UNSET)
    assert "secret-name" not in missing.to_json()


def test_keepers_leave_no_traces(place: Place) -> None:
    """A scrape every few seconds is not what anyone looks for; a path that there is not has no name."""
    for path in ("metrics", "health/live", "health/ready"):
        httpx.get(f"{place.url}/{path}").raise_for_status()
    assert httpx.get(f"{place.url}/no/such/path").status_code == 404
    (missing,) = place.spans(1)
    assert missing.name == "GET"


def test_headers_are_handed_on_within_a_block() -> None:
    """Threads that are given the context send them too; after the block nobody does."""
    with handing_on({"traceparent": TRACEPARENT}):
        found = asyncio.run(asyncio.to_thread(outgoing_headers))  # type: ignore[arg-type]  # to_thread is a coroutine
        assert found == outgoing_headers() == {"traceparent": TRACEPARENT}
    assert outgoing_headers() == {}
