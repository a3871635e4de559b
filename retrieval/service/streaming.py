"""Server-sent events out of an asynchronous iterator, and answers that end when nobody waits for them any more."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

import anyio
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from retrieval.service.failures import ClientGone, logged_problem_of

LONGEST_SEND_S = 30.0
"""How long a client may leave what was sent unread."""

T = TypeVar("T")
log = logging.getLogger(__name__)

Failed = Callable[[dict[str, Any]], Iterable[bytes]]


class EventStream(StreamingResponse):
    """Sends what a generator yields, and closes it at once when the client has gone away, or reads nothing for long.

    A client that stops reading would else hold the answer's place among those that are generated.
    """

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        # A proxy that gathers events would take the streaming away.
        super().__init__(pieces, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope() as reading:
            watch = _SendWatch(send, reading)
            try:
                await super().__call__(scope, receive, watch.send)
            finally:
                watch.end()
                with anyio.CancelScope(shield=True):
                    await self._pieces.aclose()
        if reading.cancelled_caught:
            log.warning("a client read nothing for %.0f s: its stream was broken off", LONGEST_SEND_S)


class _SendWatch:
    """Cancels a scope when one sending takes too long, by one timer for all of them."""

    def __init__(self, send: Send, scope: anyio.CancelScope) -> None:
        self._send = send
        self._scope = scope
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer = self._loop.call_later(LONGEST_SEND_S, self._look)

    async def send(self, message: Message) -> None:
        self._since = self._loop.time()
        await self._send(message)
        self._since = None

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        since = now if self._since is None else self._since
        if now - since >= LONGEST_SEND_S:
            self._scope.cancel()
        else:
            self._timer = self._loop.call_at(since + LONGEST_SEND_S, self._look)


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
        for piece in failed(logged_problem_of(error)):
            yield piece
    finally:
        close = getattr(rest, "aclose", None)
        if close is not None:
            await close()
