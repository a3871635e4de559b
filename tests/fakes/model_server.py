"""A real HTTP server on loopback that speaks the OpenAI chat API, and misbehaves as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "tiny"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the server sends: `parts` one by one, each as its own piece on the wire, `pause_s` before each.

    With `breaks_off` the connection closes without the end of the response.
    """

    parts: Sequence[bytes] | Iterator[bytes] = ()
    status: int = 200
    content_type: str = "text/event-stream; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    breaks_off: bool = False


def event(payload: object, line_end: str = "\n") -> bytes:
    """One server-sent event; a string goes as it is."""
    data = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
    return f"data: {data}{line_end}{line_end}".encode()


def delta(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    """One piece of an answer as the chat API streams it, with fields that nobody asked for."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"id": "chat-1", "object": "chat.completion.chunk", "choices": [choice], "surprise": [1, None]}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The closing event with the counts and no choices."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"choices": [], "usage": {**counts, "total_tokens": prompt_tokens + completion_tokens}}


def answer(*pieces: str, line_end: str = "\n") -> list[bytes]:
    """The events of a proper answer of these pieces, with a usage of 7 and as many tokens as pieces."""
    payloads = [*map(delta, pieces), delta("", "stop"), usage(7, len(pieces)), "[DONE]"]
    return [event(payload, line_end) for payload in payloads]


def failed(status: int, message: str, **headers: str) -> Reply:
    """An error in OpenAI's shape."""
    body = json.dumps({"error": {"message": message, "type": "error", "code": status}}).encode()
    return Reply(parts=[body], status=status, content_type="application/json", headers=headers)


class ModelServer(ThreadingHTTPServer):
    """Answers POST /v1/chat/completions with `reply(body)`, and GET /v1/models with `models`.

    `bodies` and `authorizations` keep what was asked. `connections` counts those that are open now,
    `connections_made` all; `left_alone` is set when a client went away in the middle of an answer.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, reply: Callable[[dict[str, Any]], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.models: Reply = Reply(
            parts=[json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()],
            content_type="application/json",
        )
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.models_asked = 0
        self.connections = 0
        self.connections_made = 0
        self.changed = threading.Condition()
        self.left_alone = threading.Event()

    def count(self, change: int) -> None:
        with self.changed:
            self.connections += change
            self.connections_made += max(change, 0)
            self.changed.notify_all()

    def wait_for_connections(self, number: int, timeout_s: float = 5.0) -> bool:
        """Whether as many connections as `number` are open, now or before the timeout."""
        with self.changed:
            return self.changed.wait_for(lambda: self.connections == number, timeout_s)


@contextmanager
def model_server(reply: Reply | Callable[[dict[str, Any]], Reply]) -> Iterator[ModelServer]:
    """Run a server that gives every question the same reply, or the one that a function makes."""
    server = ModelServer(reply if callable(reply) else lambda _body: reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ModelServer

    def setup(self) -> None:
        super().setup()
        self.server.count(1)

    def finish(self) -> None:
        self.server.count(-1)
        super().finish()

    def log_message(self, *_: object) -> None:
        """Say nothing: a test reads what was recorded."""

    def do_GET(self) -> None:
        self.server.models_asked += 1
        self.server.authorizations.append(self.headers["authorization"])
        self._send(self.server.models if self.path.startswith("/v1/models") else failed(404, ""))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        self.server.authorizations.append(self.headers["authorization"])
        self._send(self.server.reply(body))

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Type": reply.content_type}.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for part in reply.parts:
                time.sleep(reply.pause_s)
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            if not reply.breaks_off:
                self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.server.left_alone.set()
            self.close_connection = True
        self.close_connection = self.close_connection or reply.breaks_off
