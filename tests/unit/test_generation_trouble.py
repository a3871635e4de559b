"""A model server in trouble: each kind has its outcome, and none leaves anything behind."""

import asyncio
import gc
import os
import random
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing
from typing import Any

import aiohttp
import pytest

from backends.errors import Busy, GeneratorUnavailable, InvalidSettings, RagstoneError
from retrieval.generation.admission import Admission
from retrieval.generation.base import Ending, Message, Prompt
from retrieval.generation.openai_client import OpenAIGenerator
from retrieval.generation.timeouts import Timeouts
from tests.fakes.model_server import MODEL, ModelServer, Reply, answer, delta, event, failed, model_server, usage

PROMPT = Prompt(question="Who?", passages=(), messages=(Message("user", "Who?"),), tokens=10)
HASTY = Timeouts(connect_s=2.0, first_token_s=1.0, read_s=1.0, total_s=15.0)
WHOLE = Reply(parts=answer("Yes", "."))
TWO = [event(delta("Yes")), event(delta("."))]
HALF = event(delta("\u4f60")).partition(b"\xbd")[0]


@asynccontextmanager
async def opened(server: ModelServer, **options: Any) -> AsyncIterator[OpenAIGenerator]:
    generator = OpenAIGenerator(
        server.url, **{"model": MODEL, "timeouts": HASTY, "breaker_failures": 10_000, **options}
    )
    try:
        yield generator
    finally:
        await generator.aclose()
        generator.close()


async def told(generator: OpenAIGenerator) -> tuple[str, Ending | RagstoneError]:
    """Return the text that came, and what closed the stream."""
    text = ""
    try:
        async with aclosing(generator.astream(PROMPT, None)) as stream:
            async for piece in stream:
                if isinstance(piece, Ending):
                    return text, piece
                text += piece
    except RagstoneError as error:
        return text, error
    raise AssertionError("a stream ends with an Ending or an error")


def outcome(reply: Reply | Callable[[dict[str, Any]], Reply], **options: Any) -> tuple[str, Ending | RagstoneError]:
    async def ask(server: ModelServer) -> tuple[str, Ending | RagstoneError]:
        async with opened(server, **options) as generator:
            return await told(generator)

    with model_server(reply) as server:
        found = asyncio.run(ask(server))
        assert server.wait_for_connections(0)
    return found


NO_RETRY = {"retries": 0}
WAITS = "(generator_first_token_timeout_s)"

TROUBLES: dict[str, tuple[Reply, str, type[RagstoneError] | None, str]] = {
    "dies midway": (Reply(parts=TWO, resets=True), "Yes.", GeneratorUnavailable, "in the middle of the answer"),
    "dies before the first piece": (Reply(resets=True), "", GeneratorUnavailable, "before it answered"),
    "closes early": (Reply(parts=TWO, breaks_off=True), "Yes.", GeneratorUnavailable, "in the middle of the answer"),
    "ends early": (Reply(parts=TWO), "Yes.", GeneratorUnavailable, "before the answer was finished"),
    "stalls before headers": (Reply(parts=TWO, stalls="headers"), "", GeneratorUnavailable, WAITS),
    "stalls before the first piece": (Reply(parts=TWO, stalls=0), "", GeneratorUnavailable, WAITS),
    "stalls midway": (Reply(parts=TWO, stalls=2), "Yes.", GeneratorUnavailable, "(generator_read_timeout_s)"),
    "half a character at the end": (
        Reply(parts=[*TWO, HALF]), "Yes.", GeneratorUnavailable, "before the answer was finished",
    ),
    "half a character in an event": (
        Reply(parts=[b'data: {"choices":[{"delta":{"content":"a\xe4\xbd"}}]}\n\n', *answer("b")]),
        "a\ufffdb", None, "stop",
    ),
    "repeats an event": (Reply(parts=[TWO[0], *answer("Yes", ".")]), "YesYes.", None, "stop"),
    "repeats its end": (Reply(parts=[*answer("Yes", "."), *answer("Yes", ".")]), "Yes.", None, "stop"),
    "stays after the end": (Reply(parts=answer("Yes."), stalls=4), "Yes.", None, "stop"),
    "gives up midway": (
        Reply(parts=[*TWO, event({"error": {"message": "out of memory", "code": 500}})]),
        "Yes.", GeneratorUnavailable, "out of memory",
    ),
    "429": (failed(429, "Slow down", **{"Retry-After": "7"}), "", Busy, "Slow down"),
    "500": (failed(500, "boom"), "", GeneratorUnavailable, "answered 500: boom"),
    "503": (failed(503, "starting"), "", GeneratorUnavailable, "answered 503: starting"),
    "HTML": (Reply(parts=[b"<html>"], content_type="text/html"), "", GeneratorUnavailable, "text/html"),
    "nonsense": (Reply(parts=[*TWO, b"data: \x00\xff\n\n"]), "Yes.", GeneratorUnavailable, "no chat completion"),
    "no fault": (WHOLE, "Yes.", None, "stop"),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_has_its_outcome(name: str) -> None:
    """What had come is passed on; then comes an error that says what happened, or the ending. Nothing stays open."""
    reply, text, error, said = TROUBLES[name]
    found, last = outcome(reply, **NO_RETRY)
    assert found == text
    if error is None:
        assert isinstance(last, Ending)
        assert last.finish_reason == said
    else:
        assert type(last) is error
        assert said in str(last)
        assert "127.0.0.1" in str(last)


ROUNDS = 1_000
AT_ONCE = 50


def test_a_thousand_troubles_leave_nothing_behind() -> None:
    """No connection, task, thread, file or place: after all kinds of trouble, and readers who leave at any time."""
    rng = random.Random(6)
    kinds = list(TROUBLES.values())
    before = _held()
    with model_server(lambda _body: rng.choice(kinds)[0]) as server:
        admission = Admission(running=AT_ONCE, waiting=ROUNDS, wait_s=60)
        endings = asyncio.run(_storm(server, admission, rng))
        assert server.wait_for_connections(0)
    stats = admission.stats()
    assert (stats.running, stats.waiting, stats.admitted) == (0, 0, ROUNDS)
    assert set(endings) == {"Ending", "GeneratorUnavailable", "Busy", "CancelledError"}
    until = time.monotonic() + 5
    while any(now > then for now, then in zip(_held(), before, strict=True)):
        assert time.monotonic() < until, (before, _held())
        gc.collect()
        time.sleep(0.01)


async def _storm(server: ModelServer, admission: Admission, rng: random.Random) -> list[str]:
    timeouts = Timeouts(connect_s=5, first_token_s=0.2, read_s=0.2, total_s=30)

    async def one(generator: OpenAIGenerator) -> str:
        async with admission.aenter():
            asked = asyncio.ensure_future(told(generator))
            if rng.random() < 0.2:
                asyncio.get_running_loop().call_later(rng.random() * 0.1, asked.cancel)
            try:
                return type((await asked)[1]).__name__
            except asyncio.CancelledError as error:
                return type(error).__name__

    async with opened(server, timeouts=timeouts, retries=1) as generator:
        endings = await asyncio.gather(*(one(generator) for _ in range(ROUNDS)))
    await asyncio.sleep(0.05)  # what was closed is closed by the loop
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return endings


def _held() -> tuple[int, int]:
    """The threads and the open files of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("timeouts", "reply", "said"),
    [
        (Timeouts(first_token_s=0.2), Reply(parts=answer("a"), stalls=0), "0.2 s (generator_first_token_timeout_s)"),
        (Timeouts(read_s=0.2), Reply(parts=answer("a", "b"), stalls=1), "0.2 s (generator_read_timeout_s)"),
        (Timeouts(total_s=0.3), Reply(parts=answer(*"abcdef"), pause_s=0.1), "0.3 s (generator_total_timeout_s)"),
    ],
)
def test_each_wait_has_its_own_limit(timeouts: Timeouts, reply: Reply, said: str) -> None:
    """And its message names the setting."""
    began = time.monotonic()
    _, error = outcome(reply, timeouts=timeouts)
    assert said in str(error)
    assert time.monotonic() - began < 2


def test_a_server_that_does_not_take_connections_is_given_up() -> None:
    """A full backlog answers nothing: the limit on connecting is the one that counts."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as first, socket.socket() as second:
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        with (
            closing(OpenAIGenerator(url, model=MODEL, timeouts=Timeouts(connect_s=0.2))) as generator,
            pytest.raises(GeneratorUnavailable, match="generator_connect_timeout_s"),
        ):
            list(generator.stream(PROMPT, None))


def test_slow_pieces_are_no_stall() -> None:
    """Time in which pieces keep coming does not count, and neither do comments count as pieces."""
    assert outcome(Reply(parts=answer(*"abcdef"), pause_s=0.1))[0] == "abcdef"
    comments = (b": still here\n\n" for _ in range(100))
    text, error = outcome(Reply(parts=comments, pause_s=0.05))
    assert (text, type(error)) == ("", GeneratorUnavailable)


@pytest.mark.parametrize(
    "first", [Reply(resets=True), Reply(breaks_off=True), Reply(), failed(502, ""), failed(503, ""), failed(504, "")]
)
def test_a_request_is_tried_again_before_the_first_token(first: Reply) -> None:
    """Twice by default, unless it was 500: then the answer is as if nothing had happened."""
    for troubles, whole in ((2, True), (3, False)):
        replies = iter([first] * troubles + [WHOLE])
        text, last = outcome(lambda _body, replies=replies: next(replies), timeouts=Timeouts())  # type: ignore[misc]  # mypy takes a default for an argument
        assert (text, isinstance(last, Ending)) == (("Yes.", True) if whole else ("", False))


@pytest.mark.parametrize(
    "reply",
    [
        failed(429, "later"),
        failed(500, "boom"),
        failed(400, "bad"),
        failed(401, "who?"),
        Reply(parts=TWO, resets=True),
        Reply(parts=[event(delta("")), event("{half")]),
        Reply(parts=[b"<html>"], content_type="text/html"),
    ],
)
def test_what_would_not_help_is_not_tried_again(reply: Reply) -> None:
    """A refusal, and whatever happens after the first token, is final."""
    with model_server(reply) as server:

        async def ask() -> None:
            async with opened(server) as generator:
                assert isinstance((await told(generator))[1], RagstoneError)
                assert generator.retried == 0

        asyncio.run(ask())
        assert len(server.bodies) == 1


def test_retries_end_with_the_time_for_the_first_token() -> None:
    """However many there may be."""
    began = time.monotonic()
    outcome(failed(503, "starting"), retries=10, timeouts=Timeouts(first_token_s=0.5))
    assert time.monotonic() - began < 1


def test_the_breaker_leaves_an_ailing_server_alone() -> None:
    """After failures in a row nothing is sent; then one request tries, and its answer lets all in again."""
    replies: list[Reply] = [failed(500, "boom")]
    with (
        model_server(lambda _body: replies[-1]) as server,
        closing(OpenAIGenerator(server.url, model=MODEL, breaker_failures=3, breaker_s=0.3)) as generator,
    ):
        for _ in range(3):
            with pytest.raises(GeneratorUnavailable, match="boom"):
                list(generator.stream(PROMPT, None))
        assert generator.breaker.state == "open"
        with pytest.raises(GeneratorUnavailable, match=r"failed 3 times in a row .* tried again in 0\.\d s"):
            list(generator.stream(PROMPT, None))
        assert len(server.bodies) == 3
        replies.append(WHOLE)
        time.sleep(0.35)
        assert generator.breaker.state == "half_open"
        assert len(list(generator.stream(PROMPT, None))) == 3
        assert (generator.breaker.state, generator.breaker.opened, generator.breaker.refused) == ("closed", 1, 1)


@pytest.mark.parametrize(
    "reply",
    [
        failed(429, "later"),
        failed(400, "bad"),
        failed(404, "The model `x` does not exist."),
        Reply(parts=[*TWO, event({"error": {"message": "bad", "code": 400}})]),
        Reply(parts=answer(*"abcdef"), pause_s=0.1),
    ],
    ids=["429", "400", "404", "400 in the stream", "too long in all"],
)
def test_what_is_not_the_servers_fault_does_not_open_the_breaker(reply: Reply) -> None:
    """Load, a wrong request and a long answer say nothing of its health."""

    async def ask(server: ModelServer) -> None:
        timeouts = Timeouts(total_s=0.3)
        async with opened(server, timeouts=timeouts, breaker_failures=1) as generator:
            assert isinstance((await told(generator))[1], RagstoneError)
            assert (generator.breaker.state, generator.breaker.failed) == ("closed", 0)

    with model_server(reply) as server:
        asyncio.run(ask(server))


def test_tokens_are_counted_as_the_server_counts_them() -> None:
    """Those that its cache had included; what is no number is none."""
    cached = {"prompt_tokens_details": {"cached_tokens": 4}}
    nonsense = {"prompt_tokens": "many", "completion_tokens": -1, "prompt_tokens_details": {"cached_tokens": None}}
    for counted, found in (
        (usage(7, 2, **cached), (7, 2, 4)),
        (usage(7, 2, prompt_tokens_details=None), (7, 2, 0)),
        ({"choices": [], "usage": nonsense}, (0, 0, 0)),
    ):
        _, ending = outcome(Reply(parts=[event(delta("Yes", "stop")), event(counted), event("[DONE]")]))
        assert isinstance(ending, Ending)
        assert (ending.usage.prompt_tokens, ending.usage.completion_tokens, ending.usage.cached_tokens) == found


def _errors(error: type[aiohttp.ClientError]) -> Iterator[type[aiohttp.ClientError]]:
    yield error
    for child in error.__subclasses__():
        yield from _errors(child)


@pytest.mark.parametrize("kind", sorted(set(_errors(aiohttp.ClientError)), key=lambda kind: kind.__name__))
def test_every_error_of_the_http_library_becomes_ours(
    kind: type[aiohttp.ClientError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong on the way is GeneratorUnavailable, also what a later version adds."""

    async def fail(*_: object, **__: object) -> aiohttp.ClientResponse:
        raise _made(kind)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", fail)
    with (
        closing(OpenAIGenerator("http://localhost:1/v1", model=MODEL, retries=0)) as generator,
        pytest.raises(GeneratorUnavailable, match="localhost:1"),
    ):
        list(generator.stream(PROMPT, None))


def _made(kind: type[aiohttp.ClientError]) -> aiohttp.ClientError:
    """An error as the library makes it: with the arguments that each kind wants."""
    key: Any = aiohttp.client_reqrep.ConnectionKey("localhost", 1, False, True, None, None, None)
    request: Any = aiohttp.RequestInfo(aiohttp.typedefs.URL("http://localhost"), "POST", {}, None)  # type: ignore[arg-type]  # no headers
    kinds_of_arguments: list[Any] = [
        (key, OSError(1, "went wrong")),
        (request, ()),
        ("path", key, OSError(1, "no")),
        (b"", b"", "localhost", 1),
        ("went wrong",),
    ]
    for arguments in kinds_of_arguments:
        try:
            error = kind(*arguments)
            str(error)
        except (TypeError, AttributeError):
            continue
        return error
    raise AssertionError(f"how is {kind} made?")


def test_the_password_and_the_key_are_told_nobody() -> None:
    """A server that repeats what it was sent does not get it into our messages."""
    with model_server(lambda _body: failed(400, "no: Bearer sk-secret")) as server:
        with (
            closing(OpenAIGenerator(server.url, model=MODEL, api_key="sk-secret")) as generator,
            pytest.raises(GeneratorUnavailable) as caught,
        ):
            list(generator.stream(PROMPT, None))
        assert "sk-secret" not in str(caught.value)
        url = server.url.replace("//", "//user:word@")
        with closing(OpenAIGenerator(url, model=MODEL)) as generator, pytest.raises(GeneratorUnavailable):
            list(generator.stream(PROMPT, None))
        assert server.authorizations == ["Bearer sk-secret", "Basic dXNlcjp3b3Jk"]


def test_a_key_that_is_refused_names_its_setting() -> None:
    """Also where the model's name is asked for first."""
    with model_server(WHOLE) as server:
        server.models = failed(401, "who?")
        with closing(OpenAIGenerator(server.url)) as generator, pytest.raises(InvalidSettings, match="api_key"):
            list(generator.stream(PROMPT, None))


SECRET = "sk-SECRET/SECRET"
LONG_KEY = "sk-" + "SECRET" * 6


def _replies_with(secret: str) -> Iterator[Reply]:
    for said in (secret, "x" * 285 + secret):
        yield Reply(parts=[event({"error": {"message": said, "code": 500}})])
        yield Reply(parts=[event({"error": {"detail": said}})])
        yield Reply(parts=[event({"choices": said})])
        yield failed(500, said)
        yield failed(401, said)
        yield Reply(status=500, parts=[said.encode()])
        yield Reply(parts=[b"no"], content_type=f"text/{said}")
    yield Reply(status=500, parts=[event(secret.replace("/", "\\/"))[6:]])


@pytest.mark.parametrize(
    ("userinfo", "key", "secret"),
    [
        ("", LONG_KEY, LONG_KEY),
        ("", SECRET, SECRET),
        ("user:hunter2@", None, "hunter2"),
        ("user:hunter2@", None, "dXNlcjpodW50ZXIy"),
        ("user:hun%2Fter2@", None, "hun/ter2"),
        ("user:hun%2Fter2@", None, "hun%2Fter2"),
        ("hunter2@", None, "hunter2"),
    ],
)
def test_no_part_of_a_secret_is_told(userinfo: str, key: str | None, secret: str) -> None:
    """Wherever a server repeats it, also where the message is cut in the middle of it."""
    replies = [*_replies_with(secret)]
    told_of = iter(replies)
    with model_server(lambda _body: next(told_of)) as server:
        url = server.url.replace("//", f"//{userinfo}")
        with closing(OpenAIGenerator(url, model=MODEL, api_key=key, breaker_failures=100)) as generator:
            for _ in replies:
                with pytest.raises(RagstoneError) as caught:
                    list(generator.stream(PROMPT, None))
                assert secret[:5] not in str(caught.value).replace("\\", "")


def test_a_secret_does_not_mask_our_own_words() -> None:
    """A password of one letter leaves the message readable."""
    with model_server(failed(500, "boom")) as server:
        url = server.url.replace("//", "//user:a@")
        with (
            closing(OpenAIGenerator(url, model=MODEL, retries=0)) as generator,
            pytest.raises(GeneratorUnavailable, match=r"^127\.0\.0\.1:\d+ answered 500: boom$"),
        ):
            list(generator.stream(PROMPT, None))


def _garbage() -> Reply:
    return Reply(status=20_000, parts=[b"x"])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(parts=TWO, breaks_off=True), "closed the connection in the middle of the answer"),
        (Reply(parts=TWO, resets=True), "closed the connection in the middle of the answer"),
        (Reply(resets=True), "closed the connection before it answered"),
        (_garbage(), "does not answer in HTTP"),
    ],
)
def test_what_became_of_a_connection_is_said_in_our_words(reply: Reply, said: str) -> None:
    """And not in those of the library that met it."""
    _, error = outcome(reply, **NO_RETRY)
    assert re.fullmatch(rf"127\.0\.0\.1:\d+ {said}", str(error))


def test_both_clients_say_the_same_of_a_server_that_is_not_there() -> None:
    """The one that asks for the models, and the one that asks for the answer."""
    with model_server(WHOLE) as server:
        url = server.url
    said = set()
    for model in (None, MODEL):
        with closing(OpenAIGenerator(url, model=model, retries=0)) as generator:
            with pytest.raises(GeneratorUnavailable) as caught:
                list(generator.stream(PROMPT, None))
            said.add(str(caught.value))
    where = url.removeprefix("http://").removesuffix("/v1")
    assert said == {f"cannot connect to {where}: Connection refused; is the model server running?"}
