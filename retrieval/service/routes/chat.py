"""OpenAI's chat completions: clients of OpenAI's API can ask a collection as if it were a model."""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Response

from backends.errors import InvalidInput
from retrieval.documents import Answer, AnswerEvent, Event, HitsEvent, TextEvent
from retrieval.service.routes.collections import collection_infos
from retrieval.service.schemas.answers import citation_json
from retrieval.service.schemas.chat import ChatBody, ChatMessage, ChatResult, ModelList, chat_usage_json
from retrieval.service.schemas.problems import answers_with
from retrieval.service.service import Here
from retrieval.service.streaming import event, stream, streams
from retrieval.service.wire import Json, StrictRoute

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], route_class=StrictRoute)

_DONE = b"data: [DONE]\n\n"
_STREAM = streams("The completion, whole or, with `stream`, in chunks.", "data: {...}\n\ndata: [DONE]\n\n", {})


@router.post(
    "/chat/completions",
    summary="Answer the last message of a conversation",
    response_model=ChatResult,
    responses=_STREAM | answers_with(400, 404, 409, 413, 415, 422, 429, 503),
)
def complete(here: Here, body: ChatBody) -> Response:
    """Answer as OpenAI's chat completions do; `model` names the collection.

    The last message of the user is the question, and is answered from the documents alone: earlier messages are not
    read, and fields such as `temperature` have no effect. `citations` ride along in the message, or in the last
    chunk's `delta`.
    """
    collection = here.rag.collection(body.model)
    query, max_tokens = _question(body.messages), body.max_completion_tokens or body.max_tokens
    if body.stream:
        chunks = _Chunks.of(body)
        events = collection.stream(query, body.top_k, body.filter, max_tokens)
        return stream(events, chunks.encoded, chunks.failed)
    answer = collection.generate(query, body.top_k, body.filter, max_tokens)
    return Json(_completion(body.model, answer))


@router.get("/models", summary="List the collections as models", response_model=ModelList, responses=answers_with(503))
def models(here: Here) -> Json:
    """Return the collections as OpenAI's clients ask for models."""
    found = [
        {"id": info.name, "object": "model", "created": int(info.created_at.timestamp()), "owned_by": "ragstone"}
        for info in collection_infos(here.rag)
    ]
    return Json({"object": "list", "data": found})


@dataclass(frozen=True, slots=True)
class _Chunks:
    """One completion as a stream of chunks."""

    head: dict[str, Any]
    include_usage: bool

    @classmethod
    def of(cls, body: ChatBody) -> "_Chunks":
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        return cls(_head("chat.completion.chunk", body.model), include_usage)

    def encoded(self, one: Event) -> Iterable[bytes]:
        match one:
            case HitsEvent():
                yield self._chunk({"role": "assistant", "content": ""})
            case TextEvent(text=text):
                yield self._chunk({"content": text})
            case AnswerEvent(answer=answer):
                yield self._chunk({"citations": [citation_json(citation) for citation in answer.citations]}, "stop")
                if self.include_usage:
                    yield event(None, {**self.head, "choices": [], "usage": chat_usage_json(answer.usage)})
                yield _DONE

    def failed(self, problem: dict[str, Any]) -> Iterable[bytes]:
        yield event(None, {"error": {**problem, "message": problem["detail"]}})
        yield _DONE

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return event(None, {**self.head, "choices": [choice]})


def _completion(model: str, answer: Answer) -> dict[str, Any]:
    message = {
        "role": "assistant",
        "content": answer.text,
        "citations": [citation_json(citation) for citation in answer.citations],
    }
    return {
        **_head("chat.completion", model),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": chat_usage_json(answer.usage),
    }


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _question(messages: list[ChatMessage]) -> str:
    for position in reversed(range(len(messages))):
        if messages[position].role == "user":
            return _text(messages[position], f"messages[{position}].content")
    raise InvalidInput("messages", "found none whose role is 'user'; needed one: the last of them is the question")


def _text(message: ChatMessage, field: str) -> str:
    content = message.content
    text = "\n".join(part.text for part in content) if isinstance(content, list) else content
    if not text or not text.strip():
        raise InvalidInput(field, "found no text; needed the question")
    return text
