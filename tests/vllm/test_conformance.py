"""What the stand-in does is what a real vLLM does: the same checks, on the one and on the other."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from backends.errors import InvalidInput, InvalidSettings
from retrieval.generation.base import Ending, Message, Prompt
from retrieval.generation.failures import PromptTooLong
from retrieval.generation.openai_client import OpenAIGenerator
from tests.fakes.vllm_like import vllm_like

MESSAGES = (Message("system", "Be brief."), Message("user", "Who owns the value?"))


@pytest.fixture(scope="module", params=["stand-in", "real"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "real":
        yield request.getfixturevalue("vllm_url")
        return
    with vllm_like() as server:
        yield server.url


@pytest.fixture
def generator(url: str) -> Iterator[OpenAIGenerator]:
    with closing(OpenAIGenerator(url)) as generator:
        generator.ping()
        yield generator


def prompt(*messages: Message) -> Prompt:
    return Prompt(question="?", passages=(), messages=messages or MESSAGES, tokens=1)


def streamed(url: str, **more: Any) -> list[str]:
    """The data of the events, as they go over the wire."""
    model = httpx.get(f"{url}/models").json()["data"][0]["id"]
    said = [{"role": "user", "content": "Who?"}]
    body = {"model": model, "messages": said, "stream": True, "temperature": 0, "ignore_eos": True, **more}
    response = httpx.post(f"{url}/chat/completions", json=body, timeout=60)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, rest = response.text.split("\n\n")
    assert not rest
    assert all(event.startswith("data: ") for event in events)
    return [event.removeprefix("data: ") for event in events]


def test_the_events_of_an_answer(url: str) -> None:
    """A role without text, text, the reason with the last text, the usage without choices, [DONE]."""
    *events, done = streamed(url, max_tokens=3, stream_options={"include_usage": True})
    first, *middle, last, counted = map(json.loads, events)
    assert done == "[DONE]"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["finish_reason"] for event in [first, *middle] for choice in event["choices"]] == [None] * 3
    assert last["choices"][0]["finish_reason"] == "length"
    assert all("content" in event["choices"][0]["delta"] for event in [*middle, last])
    assert counted["choices"] == []
    assert counted["usage"]["completion_tokens"] == 3
    assert not any(event.get("usage") for event in [first, *middle, last])
    same = [{event[name] for event in [first, *middle, last, counted]} for name in ("id", "object", "model")]
    assert [len(values) for values in same] == [1, 1, 1]


def test_no_usage_unless_it_is_asked_for(url: str) -> None:
    """The counts come only with `include_usage`."""
    *events, done = streamed(url, max_tokens=2)
    assert done == "[DONE]"
    assert not any(json.loads(event).get("usage") for event in events)


def test_the_listed_model(url: str) -> None:
    """The list names the model and its window."""
    (model,) = httpx.get(f"{url}/models").json()["data"]
    names = {"id", "object", "created", "owned_by", "root", "parent", "max_model_len", "permission"}
    assert set(model) == names
    assert (model["parent"], model["max_model_len"]) == (None, 4096)


def test_counts_equal_usage(generator: OpenAIGenerator) -> None:
    """What /tokenize counts is what the usage bills, with any messages."""
    for messages in (MESSAGES, MESSAGES[1:], (*MESSAGES, Message("assistant", "You."), Message("user", "Why?\n\n[1]"))):
        *_, ending = generator.stream(prompt(*messages), 2)
        assert isinstance(ending, Ending)
        counted = generator.count_tokens(messages)
        assert counted is not None
        assert ending.usage.prompt_tokens == counted
        assert 1 <= ending.usage.completion_tokens <= 2


def test_an_answer_through_the_client(generator: OpenAIGenerator) -> None:
    """As many pieces as tokens, or fewer where characters are cut in two; the ending says why it ended."""
    *pieces, ending = generator.stream(prompt(), 20)
    assert 0 < len(pieces) <= 20
    assert isinstance(ending, Ending)
    assert (ending.finish_reason, ending.usage.completion_tokens == 20) in [("length", True), ("stop", False)]


def test_the_window_and_its_edge(generator: OpenAIGenerator) -> None:
    """A prompt that leaves room for one token is answered; the next longer one is PromptTooLong."""
    window = generator.window_tokens()
    assert window == 4096
    messages = _of_tokens(generator, window - 1)
    *_, ending = generator.stream(prompt(*messages), 1)
    assert isinstance(ending, Ending)
    assert ending.usage.prompt_tokens + ending.usage.completion_tokens == window
    for tokens in (window, window + 1):
        for max_tokens in (None, 1):
            with pytest.raises(PromptTooLong, match="answered 400"):
                list(generator.stream(prompt(*_of_tokens(generator, tokens)), max_tokens))


def test_max_tokens_beyond_the_window(generator: OpenAIGenerator) -> None:
    """More than the window holds is the caller's to mend."""
    with pytest.raises(InvalidInput, match=r"max_tokens: found 5000; .*answered 400"):
        list(generator.stream(prompt(), 5000))


def test_a_model_that_is_not_served(url: str) -> None:
    """Its name is what to mend, in the answer and in the counts."""
    with closing(OpenAIGenerator(url, model="nope")) as generator:
        with pytest.raises(InvalidSettings, match=r"generator_model: .*`nope` does not exist"):
            list(generator.stream(prompt(), 1))
        assert generator.count_tokens(MESSAGES) is None
        assert generator.window_tokens() is None


def _of_tokens(generator: OpenAIGenerator, wanted: int) -> tuple[Message]:
    """A message that the server counts to take as many tokens as are wanted."""
    words = wanted
    while True:
        message = Message("user", "x " * words)
        found = generator.count_tokens([message])
        assert found is not None
        if found == wanted:
            return (message,)
        words -= found - wanted
