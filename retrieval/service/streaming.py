"""Server-sent events out of a blocking iterator."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeVar

import anyio
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from retrieval.service.failures import problem_of

T = TypeVar("T")

Failed = Callable[[dict[str, Any]], Iterable[bytes]]


class EventStream(StreamingResponse):
    """Sends what an iterator yields, and closes the iterator when the client has gone away, too."""

    media_type = "text/event-stream"

    def __init__(self, pieces: Iterator[bytes]) -> None:
        # A proxy that gathers events would take the streaming away.
        super().__init__(pieces, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(_close, self._pieces)


def event(name: str | None, data: object) -> bytes:
    """Return one server-sent event; JSON has no line breaks of its own."""
    head = b"" if name is None else b"event: %s\n" % name.encode()
    return b"%sdata: %s\n\n" % (head, to_json(data))


def streams(description: str, example: str, properties: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's response for an operation that may stream; `properties` are its events' besides `data`."""
    one = {
        "type": "object",
        "properties": {"data": {"type": "string"}, **properties},
        "required": ["data", *properties],
    }
    content = {"text/event-stream": {"itemSchema": one, "example": example}}
    return {200: {"description": description, "content": content}}


def stream(found: Iterator[T], encode: Callable[[T], Iterable[bytes]], failed: Failed) -> EventStream:
    """Return a response that sends each of `found` as it comes.

    The first one is fetched before the response begins, so that what is wrong with the request is still answered
    with a status of its own. An error after that becomes what `failed` makes of its problem document.
    """
    try:
        first = next(found)
    except BaseException:
        _close(found)
        raise
    return EventStream(_pieces(chain([first], found), found, encode, failed))


def _pieces(
    events: Iterator[T], source: Iterator[T], encode: Callable[[T], Iterable[bytes]], failed: Failed
) -> Iterator[bytes]:
    try:
        for one in events:
            yield from encode(one)
    except Exception as error:
        yield from failed(problem_of(error))
    finally:
        _close(source)


def _close(iterator: Iterator[Any]) -> None:
    close = getattr(iterator, "close", None)
    if close is not None:
        close()
