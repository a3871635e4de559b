"""The OpenAI-compatible client against a real HTTP server, well-behaved and not."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import pytest

from backends.errors import Busy, GeneratorUnavailable, InvalidInput, InvalidSettings, RagstoneError
from retrieval.config import load
from retrieval.documents import Usage
from retrieval.generation.base import Ending, Message, Prompt
from retrieval.generation.extractive import ExtractiveGenerator
from retrieval.generation.factory import open_generator
from retrieval.generation.failures import PromptTooLong
from retrieval.generation.openai_client import OpenAIGenerator
from retrieval.generation.timeouts import Timeouts
from tests.fakes.model_server import (
    MODEL,
    ModelServer,
    Reply,
    answer,
    delta,
    event,
    failed,
    model_server,
    usage,
)

PROMPT = Prompt(
    question="Who?",
    passages=(),
    messages=(Message("system", "Be brief."), Message("user", "Who owns \u4f60\u597d?")),
    tokens=10,
)
KEY = "sk-very-secret"


def ask(server: ModelServer, max_tokens: int | None = None, **options: Any) -> tuple[str, Ending]:
    """Return the whole text and the ending, which must come once and last."""
    with closing(OpenAIGenerator(server.url, **options)) as generator:
        *pieces, last = generator.stream(PROMPT, max_tokens)
        assert isinstance(last, Ending)
        return "".join(map(str, pieces)), last


def test_an_answer_streams_with_its_usage() -> None:
    """The server is asked in OpenAI's shape, and its counts close the stream."""
    with model_server(Reply(parts=answer("Rust ", "does", " [1]."))) as server:
        ending = Ending(usage=Usage(prompt_tokens=7, completion_tokens=3), finish_reason="stop")
        assert ask(server, max_tokens=50) == ("Rust does [1].", ending)
        assert server.bodies == [
            {
                "model": MODEL,
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Who owns \u4f60\u597d?"},
                ],
                "stream": True,
                "stream_options": {"include_usage": True},
                "max_tokens": 50,
            }
        ]


def test_pieces_arrive_as_they_are_sent() -> None:
    """The first piece is there long before the last was sent."""
    with (
        model_server(Reply(parts=answer("one ", "two"), pause_s=0.2)) as server,
        closing(OpenAIGenerator(server.url, model=MODEL)) as generator,
    ):
        started = time.monotonic()
        stream = generator.stream(PROMPT, None)
        assert next(stream) == "one "
        first_s = time.monotonic() - started
        assert len(list(stream)) == 2
        assert time.monotonic() - started - first_s > 0.4


SENT = answer("\u4f60\u597d \U0001f980 ", "na\u00efve", " [1].")


@pytest.mark.parametrize(
    "parts",
    [
        [bytes([byte]) for byte in b"".join(SENT)],
        [b"".join(SENT)],
        answer("\u4f60\u597d \U0001f980 ", "na\u00efve", " [1].", line_end="\r\n"),
        [b": comment\n\nevent: x\n", *(part.replace(b"data: ", b"data:") for part in SENT)],
    ],
    ids=["byte-by-byte", "at-once", "crlf", "comments-and-no-space"],
)
def test_the_text_is_the_same_however_it_is_cut(parts: Sequence[bytes]) -> None:
    """Half a character at the edge of a piece, line ends and comments change nothing."""
    with model_server(Reply(parts=parts)) as server:
        assert ask(server)[0] == "\u4f60\u597d \U0001f980 na\u00efve [1]."


def test_a_server_without_usage_gives_zeros() -> None:
    """Tokens that nobody counted are not made up."""
    parts = [event(delta("Yes.")), event(delta("", "stop")), event("[DONE]")]
    with model_server(Reply(parts=parts)) as server:
        assert ask(server) == ("Yes.", Ending(usage=Usage(), finish_reason="stop"))


@pytest.mark.parametrize(
    "parts",
    [
        [event(delta("Yes.")), event("[DONE]")],
        [event(delta("Yes.")), event(delta("", "stop"))],
        [event(delta("Yes.", "length")), event(usage(1, 1))],
    ],
    ids=["no-finish-reason", "no-done", "cut-at-max-tokens"],
)
@pytest.mark.parametrize("breaks_off", [False, True])
def test_an_answer_that_is_finished_is_whole(parts: list[bytes], breaks_off: bool) -> None:
    """A finish reason or [DONE] is enough, whatever becomes of the connection afterwards."""
    with model_server(Reply(parts=parts, breaks_off=breaks_off)) as server:
        assert ask(server, max_tokens=1)[0] == "Yes."


ERROR_EVENT = event({"error": {"message": "CUDA out of memory", "code": 500}})


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(parts=[event(delta("Yes"))]), "before the answer was finished"),
        (Reply(parts=[event(delta("Yes")), event("[DONE]")[:9]]), "before the answer was finished"),
        (Reply(parts=[event(delta("Yes"))], breaks_off=True), "in the middle of the answer"),
        (Reply(parts=[event(delta("Yes")), ERROR_EVENT]), "CUDA out of memory"),
        (Reply(parts=[event({"object": "error", "message": "No more"})]), "No more"),
        (Reply(parts=[event(delta("Yes")), event("{half")]), "no chat completion: {half"),
        (Reply(parts=[event({"choices": [{"delta": {"content": 5}}]})]), "no chat completion"),
        (Reply(parts=[event("[1, 2]")]), "no chat completion"),
        (Reply(parts=[b"data: " + b"x" * 2_000_000]), "an event of more than"),
        (Reply(parts=[b"<html>Log in</html>"], content_type="text/html"), "text/html; needed text/event-stream"),
        (Reply(), "before the answer was finished"),
    ],
)
def test_a_stream_that_is_not_a_whole_answer_is_an_error(reply: Reply, said: str) -> None:
    """What breaks off, fails in the middle or is no answer never passes for one, and leaves no connection."""
    with model_server(reply) as server:
        with closing(OpenAIGenerator(server.url, model=MODEL)) as generator:
            with pytest.raises(GeneratorUnavailable, match=r"127\.0\.0\.1") as caught:
                list(generator.stream(PROMPT, None))
            assert said in str(caught.value)
        assert server.wait_for_connections(0)


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (failed(401, "Unauthorized"), InvalidSettings, "generator_api_key"),
        (failed(403, "Forbidden"), InvalidSettings, "generator_api_key"),
        (failed(404, "The model `x` does not exist."), InvalidSettings, "generator_model"),
        (Reply(status=404, parts=[b'{"detail":"Not Found"}']), InvalidSettings, "generator_url"),
        (failed(400, "This model's maximum context length is 9 tokens"), PromptTooLong, "context_tokens"),
        (failed(400, "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"), PromptTooLong, "got 0"),
        (failed(400, "The prompt's tokens: 9 exceed the max length: 8"), PromptTooLong, "context_tokens"),
        (failed(400, "max_tokens is too large: 50"), InvalidInput, "max_tokens"),
        (failed(400, "bad template"), GeneratorUnavailable, "answered 400: bad template"),
        (failed(429, "Slow down"), Busy, "Slow down"),
        (failed(500, "boom " * 1_000), GeneratorUnavailable, "answered 500: boom boom"),
        (Reply(status=503, parts=[b"<html>gateway</html>"]), GeneratorUnavailable, "answered 503"),
        (Reply(status=502, parts=[b"upstream\ngone"]), GeneratorUnavailable, "answered 502: upstream gone"),
        (Reply(status=502, parts=[b"cut"], breaks_off=True), GeneratorUnavailable, "answered 502: cut"),
        (Reply(status=307), GeneratorUnavailable, "answered 307"),
    ],
)
def test_a_status_becomes_an_error_that_says_what_to_mend(reply: Reply, error: type[RagstoneError], said: str) -> None:
    """Key, model, URL, window, load: each has its own error with the server's words, shortened."""
    with model_server(reply) as server:
        with pytest.raises(error) as caught:
            ask(server, max_tokens=50, model=MODEL)
        assert type(caught.value) is error
        assert said in str(caught.value)
        assert len(str(caught.value)) < 500
        assert "<html>" not in str(caught.value)
        assert server.wait_for_connections(0)


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", 1.0), ("nan", 1.0)]
)
def test_busy_says_when_to_come_back(retry_after: str, seconds: float) -> None:
    """Retry-After is read as seconds or as a date; one second where it is neither."""
    with model_server(failed(429, "Slow down", **{"Retry-After": retry_after})) as server:
        with pytest.raises(Busy) as caught:
            ask(server)
        assert caught.value.retry_after_s == seconds


def test_the_key_travels_in_the_header_alone() -> None:
    """It is sent, and neither the generator nor an error that repeats it shows it."""
    with (
        model_server(failed(401, f"Wrong key: {KEY}")) as server,
        closing(OpenAIGenerator(server.url, model=MODEL, api_key=f"{KEY}\n")) as generator,
    ):
        with pytest.raises(InvalidSettings) as caught:
            list(generator.stream(PROMPT, None))
        assert server.authorizations == [f"Bearer {KEY}"]
        assert "Wrong key: ***" in str(caught.value)
        assert KEY not in repr(generator) + repr(caught.value)


@pytest.mark.parametrize("key", ["two words", "caf\u00e9", "line\nbreak"])
def test_a_key_that_no_header_carries_is_refused_unseen(key: str) -> None:
    """The message does not repeat it."""
    with pytest.raises(InvalidSettings, match="generator_api_key") as caught:
        OpenAIGenerator("http://localhost:1/v1", api_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://user:word@:x"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """Before anything is sent, with an example of a good one and without the password in it."""
    with pytest.raises(InvalidSettings, match="http://host:8000/v1") as caught:
        OpenAIGenerator(url)
    assert "word" not in str(caught.value)


def test_a_server_that_is_not_there_is_named() -> None:
    """The message says where nobody answered, and the password of a URL is not in it."""
    with model_server(Reply()) as server:
        url = server.url.replace("//", "//user:word@")
    with closing(OpenAIGenerator(url, model=MODEL, timeouts=Timeouts(connect_s=0.5))) as generator:
        for call in (lambda: list(generator.stream(PROMPT, None)), generator.ping):
            with pytest.raises(GeneratorUnavailable, match=r"cannot connect to 127\.0\.0\.1:\d+") as caught:
                call()
            assert "word" not in str(caught.value)


def test_a_reader_who_stops_hangs_up() -> None:
    """Closing the stream closes the connection, so that the server notices and stops generating."""

    def endless() -> Iterator[bytes]:
        while True:
            yield event(delta("more "))

    with (
        model_server(lambda _body: Reply(parts=endless(), pause_s=0.001)) as server,
        closing(OpenAIGenerator(server.url, model=MODEL)) as generator,
    ):
        stream = generator.stream(PROMPT, None)
        assert [*islice(stream, 3)] == ["more "] * 3
        stream.close()
        assert server.left_alone.wait(5)
        assert server.wait_for_connections(0)


def test_a_response_that_is_not_wanted_is_not_kept_open() -> None:
    """A page in place of a stream, however long, is hung up on."""

    def endless() -> Iterator[bytes]:
        while True:
            yield b"<p>Log in</p>"

    with (
        model_server(lambda _body: Reply(parts=endless(), pause_s=0.001, content_type="text/html")) as server,
        closing(OpenAIGenerator(server.url, model=MODEL)) as generator,
    ):
        with pytest.raises(GeneratorUnavailable) as caught:
            list(generator.stream(PROMPT, None))
        assert server.left_alone.wait(5), caught.value
        assert server.wait_for_connections(0)


def test_answers_share_one_connection() -> None:
    """After a whole answer the connection serves the next; another is for small questions, and none is left over."""
    with model_server(Reply(parts=answer("Yes."))) as server:
        with closing(OpenAIGenerator(server.url)) as generator:
            for _ in range(5):
                list(generator.stream(PROMPT, None))
            assert (server.connections_made, server.models_asked, generator.model) == (2, 1, MODEL)
        assert server.wait_for_connections(0)


def test_a_model_that_went_away_is_looked_up_again() -> None:
    """A server that restarts with another model needs no restart of ours, where none was configured."""
    replies = iter([failed(404, "The model `tiny` does not exist."), Reply(parts=answer("Yes."))])
    with model_server(lambda _body: next(replies)) as server:
        with closing(OpenAIGenerator(server.url)) as generator:
            with pytest.raises(InvalidSettings):
                list(generator.stream(PROMPT, None))
            assert next(generator.stream(PROMPT, None)) == "Yes."
        assert server.models_asked == 2


@pytest.mark.parametrize(
    ("models", "model", "said"),
    [
        (failed(401, "no"), MODEL, "generator_api_key"),
        (failed(500, "no"), MODEL, "answered 500"),
        (failed(404, "no"), None, "answered 404"),
        (Reply(parts=[b'{"data": []}']), None, "serves no model"),
        (Reply(parts=[b"<html>"]), None, "does not list its models"),
        (failed(404, "no"), MODEL, None),
        (failed(429, "later"), None, None),
        (Reply(parts=[b"<html>"]), MODEL, None),
        (Reply(parts=[b'{"data": [{"id": "x", "more": 1}]}']), None, None),
    ],
)
def test_ping_says_whether_the_server_can_be_asked(models: Reply, model: str | None, said: str | None) -> None:
    """It raises GeneratorUnavailable and nothing else; a server that lists no models is fine if one is named."""
    with model_server(Reply()) as server, closing(OpenAIGenerator(server.url, model=model)) as generator:
        server.models = models
        if said is None:
            generator.ping()
        else:
            with pytest.raises(GeneratorUnavailable, match=said):
                generator.ping()
        assert not server.bodies


def test_an_unnamed_limit_of_the_server_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An answer that was cut without our asking leaves a warning."""
    with model_server(Reply(parts=[event(delta("Yes", "length")), event("[DONE]")])) as server:
        assert ask(server, model=MODEL)[0] == "Yes"
        assert "its own limit" in caplog.text
        caplog.clear()
        ask(server, model=MODEL, max_tokens=1)
        assert not caplog.text


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the server is among those that are reached without one."""
    with model_server(Reply(parts=answer("Yes."))) as proxy:
        for route, found in [*proxy.routes.items()]:
            proxy.routes[route.replace("/v1", "http://far.invalid/v1")] = found
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", "near.invalid")
        with closing(OpenAIGenerator("http://far.invalid/v1")) as generator:
            assert next(generator.stream(PROMPT, None)) == "Yes."
        with (
            closing(OpenAIGenerator("http://near.invalid/v1", model=MODEL)) as generator,
            pytest.raises(GeneratorUnavailable, match=r"cannot connect to near\.invalid"),
        ):
            list(generator.stream(PROMPT, None))
        assert proxy.asked == ["GET http://far.invalid/v1/models", "POST http://far.invalid/v1/chat/completions"]


@pytest.mark.parametrize(
    ("variable", "found"),
    [("ALL_PROXY", "socks5://user:word@localhost:1"), ("all_proxy", "socks5h://x"), ("HTTP_PROXY", "http://:x")],
)
def test_a_proxy_that_cannot_be_asked_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, found: str
) -> None:
    """Without its password; and it is no trouble for a server that is reached without it."""
    monkeypatch.setenv(variable, found)
    with pytest.raises(InvalidSettings, match="http://host:3128") as caught:
        OpenAIGenerator("http://far.invalid/v1")
    assert caught.value.field == variable
    assert "word" not in str(caught.value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with model_server(Reply(parts=answer("Yes."))) as server:
        assert ask(server)[0] == "Yes."


def test_a_proxy_may_stand_without_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """As other programs read it."""
    with model_server(Reply(parts=answer("Yes."))) as proxy:
        for route, found in [*proxy.routes.items()]:
            proxy.routes[route.replace("/v1", "http://far.invalid/v1")] = found
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removeprefix("http://").removesuffix("/v1"))
        with closing(OpenAIGenerator("http://far.invalid/v1")) as generator:
            assert next(generator.stream(PROMPT, None)) == "Yes."


def test_the_settings_choose_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL it quotes; with one it asks there, with the key and model that are set."""
    monkeypatch.delenv("RAGSTONE_GENERATOR_URL", raising=False)
    quoting = open_generator(load(), lambda texts, kind: pytest.fail("not asked yet"))
    assert isinstance(quoting, ExtractiveGenerator)
    with model_server(Reply(parts=answer("Yes."))) as server:
        settings = load(generator_url=server.url, generator_model="big", generator_api_key=KEY)
        with closing(open_generator(settings, lambda texts, kind: pytest.fail("not asked"))) as generator:
            list(generator.stream(PROMPT, None))
        assert (server.bodies[0]["model"], server.authorizations) == ("big", [f"Bearer {KEY}"])
