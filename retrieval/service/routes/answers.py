"""Generate answers."""

from collections.abc import Iterable
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from retrieval.documents import AnswerEvent, Event, HitsEvent, TextEvent
from retrieval.service.schemas.answers import ANSWER_EXAMPLE, AnswerResult, GenerateBody, answer_json
from retrieval.service.schemas.base import NameInPath
from retrieval.service.schemas.problems import answers_with
from retrieval.service.schemas.search import hit_json
from retrieval.service.service import Here
from retrieval.service.streaming import event, stream, streams, unless_gone
from retrieval.service.wire import Json, StrictRoute

router = APIRouter(prefix="/v1/collections/{name}", tags=["generate"], route_class=StrictRoute)

_STREAM_EXAMPLE = "".join(
    event(name, data).decode()
    for name, data in (
        ("hits", {"results": ANSWER_EXAMPLE["results"]}),
        ("text", {"text": ANSWER_EXAMPLE["answer"]}),
        ("answer", ANSWER_EXAMPLE),
    )
)
_STREAM = streams(
    "The answer, whole or, with `stream`, as server-sent events.",
    _STREAM_EXAMPLE,
    {"event": {"enum": ["hits", "text", "answer", "problem"]}},
)


@router.post(
    "/generate",
    summary="Answer a question",
    response_model=AnswerResult,
    responses=_STREAM | answers_with(400, 404, 409, 413, 415, 422, 429, 503),
)
async def generate(request: Request, here: Here, name: NameInPath, body: GenerateBody) -> Response:
    """Answer a question from the documents, with numbered citations that point at their places in the sources.

    With `stream`, server-sent events: first `hits` (`{"results": [...]}`), then any number of `text`
    (`{"text": "..."}`), at the end `answer` with the whole answer. Where something fails midway, the last event is
    `problem`, with a problem document.
    """
    collection = here.rag.known_collection(name)
    if collection is None:
        collection = await run_sync(here.rag.collection, name)
    run = collection.prepare_answer(body.query, body.top_k, body.filter, body.max_tokens, streamed=body.stream)
    if body.stream:
        return await stream(run.aevents(), _encoded, _failed, request)
    return Json(answer_json(await unless_gone(request, run.aanswer())))


def _encoded(one: Event) -> Iterable[bytes]:
    match one:
        case HitsEvent(hits=hits):
            yield event("hits", {"results": [hit_json(hit) for hit in hits]})
        case TextEvent(text=text):
            yield event("text", {"text": text})
        case AnswerEvent(answer=answer):
            yield event("answer", answer_json(answer))


def _failed(problem: dict[str, Any]) -> Iterable[bytes]:
    yield event("problem", problem)
