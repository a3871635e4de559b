"""A real HTTP server on loopback that speaks the OpenAI chat API, and misbehaves as it is told."""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

MODEL = "tiny"

_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the server sends: `parts` one by one, each as its own piece on the wire, `pause_s` before each.

    With `breaks_off` the connection closes without the end of the response, with `resets` it is torn. The server
    `stalls`, until its client goes away, before the headers, or before the part of that number (one after the last
    included).
    """

    parts: Sequence[bytes] | Iterator[bytes] = ()
    status: int = 200
    content_type: str = "text/event-stream; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    breaks_off: bool = False
    resets: bool = False
    stalls: Literal["headers"] | int | None = None


Answers = Callable[[dict[str, Any]], Reply]


def event(payload: object, line_end: str = "\n") -> bytes:
    """One server-sent event; a string goes as it is."""
    data = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    return f"data: {data}{line_end}{line_end}".encode()


def delta(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    """One piece of an answer as the chat API streams it, with fields that nobody asked for."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"id": "chat-1", "object": "chat.completion.chunk", "choices": [choice], "surprise": [1, None]}


def usage(prompt_tokens: int, completion_tokens: int, **details: Any) -> dict[str, Any]:
    """The closing event with the counts and no choices."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"choices": [], "usage": {**counts, "total_tokens": prompt_tokens + completion_tokens, **details}}


def answer(*pieces: str, line_end: str = "\n") -> list[bytes]:
    """The events of a proper answer of these pieces, with a usage of 7 and as many tokens as pieces."""
    payloads = [*map(delta, pieces), delta("", "stop"), usage(7, len(pieces)), "[DONE]"]
    return [event(payload, line_end) for payload in payloads]


def document(payload: object, status: int = 200, **headers: str) -> Reply:
    """A JSON document."""
    return Reply(parts=[json.dumps(payload).encode()], status=status, content_type="application/json", headers=headers)


def failed(status: int, message: str, **headers: str) -> Reply:
    """An error in OpenAI's shape."""
    return document({"error": {"message": message, "type": "error", "code": status}}, status, **headers)


class ModelServer:
    """Answers POST /v1/chat/completions with `reply(body)`; `routes` has the rest, and may be given more.

    `bodies` and `authorizations` keep what was asked, `asked` how often each route was. `connections` counts those
    that are open now, `connections_made` all; `left_alone` is set when a client went away in the middle of an answer.
    """

    def __init__(self, reply: Answers) -> None:
        self.routes: dict[str, Answers] = {
            "POST /v1/chat/completions": self._completion,
            "GET /v1/models": lambda _body: self.models,
        }
        self.reply = reply
        self.models = document({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.asked: list[str] = []
        self.connections = 0
        self.connections_made = 0
        self.changed = threading.Condition()
        self.left_alone = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    @property
    def models_asked(self) -> int:
        return self.asked.count("GET /v1/models")

    def count(self, change: int) -> None:
        with self.changed:
            self.connections += change
            self.connections_made += max(change, 0)
            self.changed.notify_all()

    def wait_for_connections(self, number: int, timeout_s: float = 5.0) -> bool:
        """Whether as many connections as `number` are open, now or before the timeout."""
        with self.changed:
            return self.changed.wait_for(lambda: self.connections == number, timeout_s)

    def answer_to(self, request: "_Request") -> Reply:
        """Return what a request gets, and remember that it was made."""
        self.asked.append(request.route)
        self.authorizations.append(request.headers.get("authorization"))
        found = self.routes.get(request.route)
        return found(request.body) if found else failed(404, "Not Found")

    async def run(self, ready: Callable[[], object], stop: asyncio.Event) -> None:
        """Serve until `stop` is set; connections that are open then are closed."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), sock=self._socket)
        ready()
        await stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def _completion(self, body: dict[str, Any]) -> Reply:
        self.bodies.append(body)
        return self.reply(body)


@contextmanager
def model_server(reply: Reply | Answers) -> Iterator[ModelServer]:
    """Run a server that gives every question the same reply, or the one that a function makes."""
    server = ModelServer(reply if callable(reply) else lambda _body: reply)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    ready = threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=[server.run(ready.set, stop)], daemon=True)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.run_until_complete(asyncio.sleep(0.01))  # for what was cancelled, and closes
        loop.close()


@dataclass(frozen=True)
class _Request:
    route: str
    headers: dict[str, str]
    body: Any


class _Connection(asyncio.StreamReaderProtocol):
    """One connection, which notices at once when its client goes away."""

    def __init__(self, server: ModelServer) -> None:
        super().__init__(asyncio.StreamReader(), self._serve)
        self._server = server
        self._gone = asyncio.Event()
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._server.count(1)
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        self._gone.set()
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._gone.set()
        self._server.count(-1)
        super().connection_lost(error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read(reader)) is not None:
                self._answering = True
                if not await self._send(self._server.answer_to(request), writer):
                    break
                self._answering = False
        except (ConnectionError, asyncio.IncompleteReadError):
            if self._answering:
                self._server.left_alone.set()
        finally:
            writer.close()

    async def _send(self, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        """Send a reply; whether the connection is good for another."""
        if reply.stalls == "headers":
            await self._pause(None)
        writer.write(_head(reply))
        number = 0
        for part in reply.parts:
            await self._pause(None if reply.stalls == number else reply.pause_s)
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
            number += 1
        if reply.stalls == number:
            await self._pause(None)
        if reply.resets:
            await self._pause(0.01)  # what was sent arrives first
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        elif not reply.breaks_off:
            writer.write(b"0\r\n\r\n")
        return not (reply.breaks_off or reply.resets)

    async def _pause(self, seconds: float | None) -> None:
        """Wait so long, or for ever; raises where the client goes away."""
        if seconds == 0:
            await asyncio.sleep(0)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), seconds)
        if self._gone.is_set():
            raise ConnectionResetError


async def _read(reader: asyncio.StreamReader) -> _Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None  # the client needs the connection no more
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return _Request(f"{method} {target.partition('?')[0]}", headers, json.loads(body) if body else None)


def _head(reply: Reply) -> bytes:
    headers = {**reply.headers, "Content-Type": reply.content_type, "Transfer-Encoding": "chunked"}
    lines = [f"HTTP/1.1 {reply.status} Said", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
