"""OpenAI's chat completions."""

import json
from typing import Any

import httpx
import pytest

from retrieval.service.schemas.chat import ChatResult, ModelList
from tests.service.conftest import LEAVE
from tests.service.problems import problem

QUESTION = "how many days of leave does everyone have"


def _body(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": QUESTION}], **more}


def test_completion(client: httpx.Client, handbook: str) -> None:
    """The collection answers as a model would, with its citations in the message."""
    found = client.post("/v1/chat/completions", json=_body(handbook, temperature=0.2, user="someone"))
    completion = ChatResult.model_validate_json(found.content)
    message = completion.choices[0].message
    assert completion.model == handbook
    assert "thirty days" in message.content
    citation = message.citations[0]
    assert LEAVE["text"][citation.start : citation.end] == citation.text  # type: ignore[index]


def test_last_user_message_counts(client: httpx.Client, handbook: str) -> None:
    """The question is the last message of the user, in parts or in one, whatever came before or after."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "zebra xylophone quark"},
        {"role": "assistant", "content": "I do not know.", "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "how many days"}, {"type": "text", "text": "of leave"}]},
    ]
    found = client.post("/v1/chat/completions", json={"model": handbook, "messages": messages}).json()
    assert "thirty days" in found["choices"][0]["message"]["content"]


def test_stream(client: httpx.Client, handbook: str) -> None:
    """A stream has the chunks that OpenAI's clients expect, citations in the last, usage where asked, and DONE."""
    body = _body(handbook, stream=True, stream_options={"include_usage": True})
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    chunks: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert "thirty days" in text
    last = chunks[-2]["choices"][0]
    assert (last["finish_reason"], last["delta"]["citations"][0]["document_id"]) == ("stop", "leave")
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 0)


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"model": "nowhere", "messages": [{"role": "user", "content": "q"}]}, 404, "collection_not_found", None),
        ({"messages": [{"role": "user", "content": "q"}]}, 422, "invalid_input", "model"),
        ({"model": "m", "messages": []}, 422, "invalid_input", "messages"),
        ({"model": "m", "messages": [{"role": "user", "content": "q"}], "n": 2}, 422, "invalid_input", "n"),
        ({"model": "m", "messages": [{"role": "wizard", "content": "q"}]}, 422, "invalid_input", "messages[0].role"),
    ],
)
def test_refusals(client: httpx.Client, body: object, status: int, code: str, field: str | None) -> None:
    """What cannot be answered is refused with a problem document."""
    assert problem(client.post("/v1/chat/completions", json=body), status, code).get("field") == field


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([{"role": "assistant", "content": "hello"}], "messages"),
        ([{"role": "user", "content": " "}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
    ],
)
def test_no_question(client: httpx.Client, handbook: str, messages: object, field: str) -> None:
    """A conversation in which the user asks nothing is refused."""
    found = client.post("/v1/chat/completions", json={"model": handbook, "messages": messages})
    assert problem(found, 422, "invalid_input")["field"] == field


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:image/png,x"}}],
        [{"type": "text"}],
        5,
    ],
)
def test_only_text_is_understood(client: httpx.Client, content: object) -> None:
    """Another part, an image for example, is refused by the name of its message."""
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    found = problem(client.post("/v1/chat/completions", json=body), 422, "invalid_input")
    assert found["field"] == "messages[0].content"
    assert found["detail"].endswith("; needed text, or parts of the type 'text': only text is understood")


def test_models(client: httpx.Client, handbook: str) -> None:
    """Clients that ask for models first find the collections."""
    found = ModelList.model_validate_json(client.get("/v1/models").content)
    assert handbook in {model.id for model in found.data}
