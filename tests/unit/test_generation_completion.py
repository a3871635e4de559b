"""From the events of a stream to text: whatever comes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.documents import Usage
from retrieval.generation.address import ServerAddress
from retrieval.generation.completion import Completion
from tests.fakes.model_server import delta, event, usage

SERVER = ServerAddress("http://host:8000/v1", None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["choices", "delta", "content", "finish_reason", "usage", "prompt_tokens", "prompt_tokens_details", "error", "code"]
)
ALMOST_EVENTS = st.recursive(
    JSON, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


@given(st.lists(ALMOST_EVENTS, max_size=4))
def test_any_json_is_text_or_no_answer(payloads: list[object]) -> None:
    """Nothing that a server can send makes more of it than pieces of text, sound counts, or a plain word about it."""
    completion = Completion(SERVER)
    pieces = completion.feed(b"".join(f"data: {json.dumps(payload)}\n\n".encode() for payload in payloads))
    assert all(isinstance(piece, str) and piece for piece in pieces)
    ending = completion.ending
    assert isinstance(ending.finish_reason, str | None)
    assert min(ending.usage.prompt_tokens, ending.usage.completion_tokens, ending.usage.cached_tokens) >= 0
    assert completion.wrong is None or len(str(completion.wrong)) < 500


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_are_text_or_no_answer(received: list[bytes]) -> None:
    """Nothing is raised, and after something wrong nothing counts."""
    completion = Completion(SERVER)
    for part in received:
        assert all(isinstance(piece, str) for piece in completion.feed(b"data: " + part + b"\n\n"))


@given(st.lists(st.text(min_size=1), max_size=6))
def test_the_text_comes_out_as_it_went_in(words: list[str]) -> None:
    """Each event is a piece, and empty ones are none."""
    completion = Completion(SERVER)
    sent = [*map(delta, words), delta(""), delta("", "stop"), usage(3, len(words)), "[DONE]"]
    assert completion.feed(b"".join(map(event, sent))) == words
    assert completion.is_whole
    assert completion.ending.usage == Usage(prompt_tokens=3, completion_tokens=len(words))


@pytest.mark.parametrize(
    ("payload", "said", "status"),
    [
        ({"error": {"message": "out of memory", "code": 500}}, "the server gave up: out of memory", 500),
        ({"error": "no more"}, "the server gave up: no more", None),
        ({"object": "error", "message": "too long", "code": 400}, "the server gave up: too long", 400),
        ({"error": None, "choices": 5}, "found an event that is no chat completion", None),
    ],
)
def test_an_error_in_the_stream_is_told(payload: object, said: str, status: int | None) -> None:
    """In any of the shapes that servers use, after the pieces that came before it."""
    completion = Completion(SERVER)
    assert completion.feed(event(delta("Yes")) + event(payload) + event(delta("No"))) == ["Yes"]
    assert completion.wrong is not None
    assert str(completion.wrong).startswith(said)
    assert completion.wrong.status == status
