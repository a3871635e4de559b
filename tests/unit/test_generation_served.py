"""What a model server says of its model: asked seldom, and never in the way of an answer."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from backends.errors import GeneratorUnavailable
from retrieval.generation.address import ServerAddress
from retrieval.generation.base import Message
from retrieval.generation.openai_client import OpenAIGenerator
from retrieval.generation.served import ASKED_AGAIN_S, REMEMBERED_S, Served
from tests.fakes.model_server import MODEL, ModelServer, Reply, document, failed, model_server
from tests.fakes.vllm_like import VllmLike, count_tokens, vllm_like

MESSAGES = [Message("system", "Be brief."), Message("user", "Who owns \u4f60\u597d?")]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def served_by(server: ModelServer, clock: Clock | None = None, model: str = "") -> Iterator[Served]:
    served = Served(ServerAddress(server.url, None), model, 1.0, clock or time.monotonic)
    with closing(served):
        yield served


def models(*cards: dict[str, object]) -> Reply:
    return document({"data": list(cards)})


def test_the_window_is_remembered_and_asked_for_again() -> None:
    """Not with every answer; but a server that restarts with another one is noticed."""
    clock = Clock()
    like = VllmLike(window_tokens=4_096)
    with model_server(like.complete) as server, served_by(server, clock) as served:
        like.serve_on(server)
        assert [served.window_tokens() for _ in range(3)] == [4_096] * 3
        assert (server.models_asked, served.model) == (1, MODEL)
        like.window_tokens = 2_048
        assert served.window_tokens() == 4_096
        clock.now += REMEMBERED_S
        assert served.window_tokens() == 2_048
        like.window_tokens = 1_024
        served.forget(model=False)
        assert (served.window_tokens(), server.models_asked) == (1_024, 3)


@pytest.mark.parametrize(
    ("cards", "model", "window"),
    [
        ([{"id": "a"}], "", None),
        ([{"id": "a", "max_model_len": None}], "a", None),
        ([{"id": "a", "max_model_len": 0}], "a", None),
        ([{"id": "a", "max_model_len": 5}, {"id": "b", "max_model_len": 7}], "b", 7),
        ([{"id": "a", "max_model_len": 5}, {"id": "lora", "parent": "a"}], "lora", 5),
        ([{"id": "a", "max_model_len": 5}], "unlisted", None),
        ([{"id": "a", "max_model_len": "long"}], "a", None),
        ([], "a", None),
    ],
)
def test_the_window_is_that_of_the_model_that_is_asked(
    cards: list[dict[str, object]], model: str, window: int | None
) -> None:
    """An adapter has its parent's; where nobody says, it is None."""
    with model_server(Reply()) as server, served_by(server, model=model) as served:
        server.models = models(*cards)
        assert served.window_tokens() == window


def test_a_failure_leaves_what_was_known(caplog: pytest.LogCaptureFixture) -> None:
    """One line in the log, and no new question for a while."""
    clock = Clock()
    with vllm_like() as server, served_by(server, clock) as served:
        assert served.window_tokens() == 4_096
        server.routes["GET /v1/models"] = lambda _body: failed(500, "boom")
        clock.now += REMEMBERED_S
        assert [served.window_tokens() for _ in range(3)] == [4_096] * 3
        assert server.models_asked == 2
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        clock.now += ASKED_AGAIN_S
        served.window_tokens()
        assert server.models_asked == 3


def test_tokens_are_counted_beside_the_api() -> None:
    """By the server's own tokenizer with its chat template; the window comes along."""
    with vllm_like(window_tokens=99) as server, served_by(server, model=MODEL) as served:
        server.models = models()
        asked = [{"role": message.role, "content": message.content} for message in MESSAGES]
        assert served.count_tokens(MESSAGES) == count_tokens(asked)
        assert server.asked == ["POST /tokenize"]
        server.routes["GET /v1/models"] = lambda _body: models({"id": MODEL})
        assert served.window_tokens() == 99


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://host:8000/v1", "/tokenize"),
        ("http://host:8000/v1/", "/tokenize"),
        ("http://host:8000/v3", "/tokenize"),
        ("http://host:8000", "/tokenize"),
        ("http://host/team/vllm/v1", "/team/vllm/tokenize"),
    ],
)
def test_where_beside_is(url: str, path: str) -> None:
    """/tokenize is no part of OpenAI's API, so it is not below /v1."""
    assert ServerAddress(url, None).beside("tokenize").removeprefix("http://host").removeprefix(":8000") == path


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_that_cannot_count_is_not_asked_again(status: int) -> None:
    """Not before it may have been exchanged for one that can."""
    clock = Clock()
    with model_server(Reply()) as server, served_by(server, clock, MODEL) as served:
        server.routes["POST /tokenize"] = lambda _body: failed(status, "no")
        assert [served.count_tokens(MESSAGES) for _ in range(3)] == [None] * 3
        assert len(server.asked) == 1
        clock.now += REMEMBERED_S
        served.count_tokens(MESSAGES)
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    "reply",
    [
        failed(500, "boom"),
        failed(401, "who?"),
        Reply(parts=[b"<html>"], content_type="text/html"),
        document({"count": "many"}),
        document([1]),
        Reply(resets=True),
        Reply(parts=[b"{"] * 3, breaks_off=True),
        Reply(stalls="headers"),
        Reply(parts=[b" "] * 1_000, pause_s=0.1),
    ],
    ids=["500", "401", "html", "no number", "no object", "reset", "cut", "stalls", "never ends"],
)
def test_counting_that_fails_fails_no_answer(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    """It is None in a short time, with one line in the log, and the server is left alone for a while."""
    with model_server(Reply()) as server, served_by(server, model=MODEL) as served:
        server.routes["POST /tokenize"] = lambda _body: reply
        began = time.monotonic()
        assert [served.count_tokens(MESSAGES) for _ in range(3)] == [None] * 3
        assert time.monotonic() - began < 3
        assert len(server.asked) == 1
        assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_messages_that_the_template_refuses_do_not_stop_the_counting() -> None:
    """A 400 is about this prompt alone."""
    replies = iter([failed(400, "roles must alternate"), document({"count": 5})])
    with model_server(Reply()) as server, served_by(server, model=MODEL) as served:
        server.routes["POST /tokenize"] = lambda _body: next(replies)
        assert [served.count_tokens(MESSAGES) for _ in range(2)] == [None, 5]


def test_a_list_without_end_is_not_read_to_its_end() -> None:
    """Neither in time nor in bytes."""
    for reply in (
        Reply(parts=(b"x" * 1_000_000 for _ in range(1_000)), content_type="application/json"),
        Reply(parts=(b" " for _ in range(1_000)), pause_s=0.1),
    ):
        with model_server(Reply()) as server, served_by(server, model=MODEL) as served:
            server.models = reply
            began = time.monotonic()
            assert served.window_tokens() is None
            assert time.monotonic() - began < 4
            assert server.wait_for_connections(0)


def test_servers_that_lack_it_all_still_answer() -> None:
    """TensorRT-LLM's and OpenVINO's servers: a list with names alone, another /tokenize or none."""
    with (
        model_server(Reply(parts=[b'data: {"choices":[{"delta":{"content":"Yes."}}]}\n\ndata: [DONE]\n\n'])) as server,
        closing(OpenAIGenerator(server.url)) as generator,
    ):
        server.routes["POST /tokenize"] = lambda _body: failed(404, json.dumps("Not Found"))
        assert (generator.window_tokens(), generator.count_tokens(MESSAGES), generator.model) == (None, None, MODEL)
        generator.ping()


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(parts=[b"{"], breaks_off=True), "closed the connection in the middle of the answer"),
        (Reply(stalls="headers"), "did not answer within 1 s"),
        (Reply(status=20_000), "does not answer in HTTP"),
    ],
    ids=["cut", "stalls", "no HTTP"],
)
def test_what_became_of_a_connection_is_said_in_our_words(reply: Reply, said: str) -> None:
    """As the client that asks for answers says it."""
    with model_server(Reply()) as server, served_by(server) as served:
        server.models = reply
        with pytest.raises(GeneratorUnavailable, match=rf"^127\.0\.0\.1:\d+ {said}$"):
            served.find_model()


def test_a_count_that_is_none_is_not_repeated_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A server may repeat what it was sent."""
    with model_server(Reply()) as server, served_by(server, model=MODEL) as served:
        server.routes["POST /tokenize"] = lambda _body: document({"count": "sk-secret"})
        assert served.count_tokens(MESSAGES) is None
    assert "sk-secret" not in caplog.text
