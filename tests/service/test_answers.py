"""Answers over HTTP, whole and streamed."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import retrieval
from backends.errors import GeneratorUnavailable
from retrieval.documents import Usage
from retrieval.generation.base import Ending, Generator, Prompt, Stream
from retrieval.service import create_app
from retrieval.service.schemas.answers import AnswerResult
from tests.service.conftest import LEAVE
from tests.service.problems import problem
from tests.service.serving import served

QUESTION = "how many days of leave does everyone have"


def events_of(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Read server-sent events as a client does."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_generate(client: httpx.Client, handbook: str) -> None:
    """An answer cites its place in the source, exactly."""
    found = client.post(f"/v1/collections/{handbook}/generate", json={"query": QUESTION})
    answer = AnswerResult.model_validate_json(found.content)
    assert "thirty days" in answer.answer
    citation = answer.citations[0]
    assert f"[{citation.number}]" in answer.answer
    assert citation.document_id == "leave"
    assert LEAVE["text"][citation.start : citation.end] == citation.text  # type: ignore[index]
    assert not answer.refused
    assert answer.results[0].id == "leave"


def test_refusal(client: httpx.Client, handbook: str) -> None:
    """Where nothing relevant is there, the answer says so plainly and cites nothing."""
    found = client.post(f"/v1/collections/{handbook}/generate", json={"query": "zebra xylophone quark"}).json()
    assert found["refused"]
    assert found["citations"] == []


def test_stream(client: httpx.Client, handbook: str) -> None:
    """A stream is the hits, the text in pieces, and the whole answer, the same as without streaming."""
    body = {"query": QUESTION, "stream": True}
    with client.stream("POST", f"/v1/collections/{handbook}/generate", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = list(events_of(response))
    assert [name for name, _ in events[:1] + events[-1:]] == ["hits", "answer"]
    assert {name for name, _ in events[1:-1]} == {"text"}
    answer = AnswerResult.model_validate(events[-1][1])
    assert "".join(data["text"] for name, data in events if name == "text") == answer.answer
    whole = client.post(f"/v1/collections/{handbook}/generate", json={"query": QUESTION}).json()
    assert (whole["answer"], whole["results"]) == (answer.answer, events[0][1]["results"])


@pytest.mark.parametrize("stream", [True, False])
def test_wrong_before_the_stream(client: httpx.Client, stream: bool) -> None:
    """What is wrong with the request is answered with its own status, streamed or not."""
    body = {"query": QUESTION, "stream": stream}
    problem(client.post("/v1/collections/nowhere/generate", json=body), 404, "collection_not_found")


class _Scripted(Generator):
    """Writes what the test says, when the test says so."""

    model = "scripted"

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.closed = threading.Event()
        self.fail = False

    def stream(self, prompt: Prompt, max_tokens: int | None) -> Stream:
        try:
            yield "one "
            self.go_on.wait(20)
            if self.fail:
                raise GeneratorUnavailable("the model server went away")
            for _ in range(100):
                yield "word " * 10_000  # more than the sockets' buffers hold
            yield Ending(usage=Usage(prompt_tokens=3, completion_tokens=1_001))
        finally:
            self.closed.set()


@pytest.fixture
def scripted(rag: retrieval.Ragstone, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, _Scripted]]:
    """A server whose generator is the test's."""
    generator = _Scripted()
    monkeypatch.setitem(vars(rag), "generator", generator)
    with served(create_app(rag)) as url:
        yield url, generator


def _streaming(url: str, handbook: str) -> Any:
    return httpx.stream(
        "POST", f"{url}/v1/collections/{handbook}/generate", json={"query": QUESTION, "stream": True}, timeout=30
    )


def test_comes_as_it_is_written(scripted: tuple[str, _Scripted], handbook: str) -> None:
    """The first piece is there while the second is still being written."""
    url, generator = scripted
    with _streaming(url, handbook) as response:
        events = events_of(response)
        assert next(events)[0] == "hits"
        assert next(events) == ("text", {"text": "one "})
        assert not generator.closed.is_set()
        generator.go_on.set()
        assert [name for name, _ in events][-1] == "answer"


def test_failure_midway(scripted: tuple[str, _Scripted], handbook: str) -> None:
    """A failure after the first piece ends the stream with a problem, and the connection stays good."""
    url, generator = scripted
    generator.fail = True
    generator.go_on.set()
    with _streaming(url, handbook) as response:
        name, data = list(events_of(response))[-1]
    assert name == "problem"
    assert (data["status"], data["code"]) == (503, "generator_unavailable")


def test_client_goes_away(scripted: tuple[str, _Scripted], handbook: str) -> None:
    """A client that leaves in the middle has its generator closed, and no thread is left behind."""
    url, generator = scripted
    with _streaming(url, handbook) as response:
        events = events_of(response)
        next(events)
        next(events)
    generator.go_on.set()
    assert generator.closed.wait(10), "the generator was not closed"
