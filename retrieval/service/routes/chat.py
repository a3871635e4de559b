"""OpenAI's chat completions: clients of OpenAI's API can ask a collection as if it were a model."""

import time
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from retrieval.documents import Answer, AnswerEvent, HitsEvent, TextEvent
from retrieval.generation.driving import AnswerRun
from retrieval.service.conversation import conversation_of
from retrieval.service.routes.collections import collection_infos
from retrieval.service.schemas.answers import annotations_json, citation_json
from retrieval.service.schemas.chat import ChatBody, ChatResult, ModelList, chat_usage_json
from retrieval.service.schemas.costs import cost_json
from retrieval.service.schemas.problems import answers_with
from retrieval.service.service import Here
from retrieval.service.streaming import event, stream, streams, unless_gone
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
async def complete(request: Request, here: Here, body: ChatBody) -> Response:
    """Answer as OpenAI's chat completions do; `model` names the collection.

    The last message of the user is the question, and is answered from the documents; what was said before it is
    the conversation that it stands in. Fields such as `temperature` have no effect. `citations` and `annotations`
    ride along in the message, or in the last chunk's `delta`.
    """
    question, history = conversation_of(body.messages)
    max_tokens, streamed = body.max_completion_tokens or body.max_tokens, bool(body.stream)
    collection = here.rag.known_collection(body.model)
    if collection is None:
        collection = await run_sync(here.rag.collection, body.model)
    run = collection.prepare_answer(question, body.top_k, body.filter, max_tokens, history, streamed=streamed)
    if body.stream:
        chunks = _Chunks(body)
        return await stream(_spoken(run), chunks.encoded, chunks.failed, request)
    return Json(_completion(body.model, await unless_gone(request, run.aanswer())))


async def _spoken(run: AnswerRun) -> AsyncGenerator[TextEvent | AnswerEvent, None]:
    """Yield an answer from its first word on: a failure before that has a status of its own."""
    async with aclosing(run.aevents()) as events:
        async for one in events:
            if not isinstance(one, HitsEvent):
                yield one


@router.get("/models", summary="List the collections as models", response_model=ModelList, responses=answers_with(503))
def models(here: Here) -> Json:
    """Return the collections as OpenAI's clients ask for models."""
    found = [
        {"id": info.name, "object": "model", "created": int(info.created_at.timestamp()), "owned_by": "ragstone"}
        for info in collection_infos(here.rag)
    ]
    return Json({"object": "list", "data": found})


class _Chunks:
    """One completion as a stream of chunks."""

    def __init__(self, body: ChatBody) -> None:
        self._head = _head("chat.completion.chunk", body.model)
        self._include_usage = body.stream_options is not None and body.stream_options.include_usage
        self._begun = False

    def encoded(self, one: TextEvent | AnswerEvent) -> Iterable[bytes]:
        if not self._begun:
            self._begun = True
            yield self._chunk({"role": "assistant", "content": ""})
        match one:
            case TextEvent(text=text):
                yield self._chunk({"content": text})
            case AnswerEvent(answer=answer):
                yield self._chunk(_beside(answer, self._head["model"]), answer.finish_reason or "stop")
                if self._include_usage:
                    yield event(None, {**self._head, "choices": [], "usage": chat_usage_json(answer.usage)})
                yield _DONE

    def failed(self, problem: dict[str, Any]) -> Iterable[bytes]:
        yield event(None, {"error": {**problem, "message": problem["detail"]}})
        yield _DONE

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return event(None, {**self._head, "choices": [choice]})


def _completion(model: str, answer: Answer) -> dict[str, Any]:
    message = {
        "role": "assistant",
        "content": answer.text,
        **_beside(answer, model),
    }
    return {
        **_head("chat.completion", model),
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason or "stop"}],
        "usage": chat_usage_json(answer.usage),
    }


def _beside(answer: Answer, collection: str) -> dict[str, Any]:
    """What rides along, and is not OpenAI's."""
    return {
        "citations": [citation_json(citation) for citation in answer.citations],
        "annotations": annotations_json(answer.citations, collection),
        "refused": answer.refused,
        "cost": cost_json(answer.cost),
        "warnings": answer.warnings,
    }


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
