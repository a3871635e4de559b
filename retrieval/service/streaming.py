"""Server-sent events out of an asynchronous iterator, and answers that end when nobody waits for them any more."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import anyio
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from retrieval.service.failures import ClientGone, problem_of

T = TypeVar("T")

Failed = Callable[[dict[str, Any]], Iterable[bytes]]


class EventStream(StreamingResponse):
    """Sends what a generator yields, and closes it at once when the client has gone away."""

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        # A proxy that gathers events would take the streaming away.
        super().__init__(pieces, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._pieces.aclose()


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


async def stream(
    found: AsyncGenerator[T, None], encode: Callable[[T], Iterable[bytes]], failed: Failed, request: Request
) -> EventStream:
    """Return a response that sends each of `found` as it comes.

    The first one is fetched before the response begins, so that what is wrong with the request is still answered
    with a status of its own. An error after that becomes what `failed` makes of its problem document.
    """
    first = await unless_gone(request, anext(found))
    return EventStream(_pieces(first, found, encode, failed))


async def unless_gone(request: Request, working: Awaitable[T]) -> T:
    """Return what `working` returns; where the client goes away before that, stop the work and raise ClientGone."""
    result: list[T] = []
    errors: list[Exception] = []
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            result.append(await working)
        except Exception as error:  # told outside of the group, which would wrap it
            errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not result:
        raise ClientGone
    return result[0]


async def _pieces(
    first: T, rest: AsyncIterator[T], encode: Callable[[T], Iterable[bytes]], failed: Failed
) -> AsyncGenerator[bytes, None]:
    try:
        for piece in encode(first):
            yield piece
        async for one in rest:
            for piece in encode(one):
                yield piece
    except Exception as error:
        for piece in failed(problem_of(error)):
            yield piece
    finally:
        close = getattr(rest, "aclose", None)
        if close is not None:
            await close()
