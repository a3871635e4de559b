"""A real HTTP server on loopback that speaks Pinecone's REST API, version 2025-10, and misbehaves as it is told.

Control and data plane share one port: the host of an index is this server's, with the index's name as a path.

    python -m tests.fakes.pinecone_server --port 5080
"""

import argparse
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.pinecone_data import Data, Refused, invalid
from tests.fakes.pinecone_routes import Answer, Request

API_VERSION = "2025-10"
API_KEY = "test-key"
CODES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with the next requests whose path has `path` in it: with `times` of them, or a `share`.

    `status` answers with an error; `pause_s` waits before anything else; `drop` closes the connection without an
    answer; `lose` acknowledges an upsert or a delete and forgets it; `body` is sent instead of the answer.
    """

    path: str = ""
    times: float = 1
    share: float = 1.0
    status: int | None = None
    retry_after_s: int | None = None
    pause_s: float = 0.0
    drop: bool = False
    lose: bool = False
    body: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request and its answer, as they were on the wire."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    status: int
    answer: bytes

    @property
    def data_path(self) -> str:
        """The path without the part that names the index."""
        return self.path if self.path.startswith("/indexes") else "/" + self.path.split("/", 2)[2]


class FakePinecone:
    """Keeps its data over `stop` and `start`, and every exchange unless told not to."""

    def __init__(self, port: int = 0, api_key: str = API_KEY, keep_exchanges: bool = True) -> None:
        self.data = Data()
        self.api_key = api_key
        self.keep_exchanges = keep_exchanges
        self.exchanges: list[Exchange] = []
        self._faults: list[Fault] = []
        self._chance = random.Random(0)
        self._port = port
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """The control plane."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Go away, closing every connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None

    def misbehave(self, fault: Fault) -> None:
        """Do this, after what was asked for before."""
        self._faults.append(fault)

    def behave(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def forget_everything(self) -> None:
        """Lose all indexes."""
        with self.data.lock:
            self.data.indexes.clear()

    def requests(self, path: str) -> list[Exchange]:
        """Return what was asked of paths that have this in them."""
        return [exchange for exchange in self.exchanges if path in exchange.path]

    def fault_for(self, path: str) -> Fault | None:
        """Return what is to go wrong with this request, and count it."""
        with self.data.lock:
            for fault in self._faults:
                if fault.path in path and fault.times > 0 and self._chance.random() < fault.share:
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def pinecone_server(port: int = 0) -> Iterator[FakePinecone]:
    """Run one until the end of the `with`."""
    fake = FakePinecone(port)
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], fake: FakePinecone) -> None:
        super().__init__(address, _Handler)
        self.fake = fake
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *args: object) -> None:
        """Be quiet."""

    def _answer(self) -> None:
        fake, url = self.server.fake, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = fake.fault_for(url.path) or Fault()
        time.sleep(fault.pause_s)
        if fault.drop:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        query = parse_qs(url.query, keep_blank_values=True)
        request = Request(fake.data, fake.url, self.command, url.path, query, body, fault.lose)
        answer = _failed(fault, url.path) if fault.status else self._routed(request)
        sent = b"" if answer.body is None else json.dumps(answer.body).encode()
        sent = sent if fault.body is None else fault.body
        if fake.keep_exchanges:
            fake.exchanges.append(self._exchange(request, answer.status, sent))
        self._send(answer, sent)

    def _exchange(self, request: Request, status: int, sent: bytes) -> Exchange:
        return Exchange(
            method=request.method,
            path=request.path,
            query=request.query,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=request.body,
            status=status,
            answer=sent,
        )

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815  # the base class looks for these

    def _routed(self, request: Request) -> Answer:
        try:
            if self.headers.get("Api-Key") != self.server.fake.api_key:
                raise Refused(401, 16, "Invalid API Key")
            if self.headers.get("X-Pinecone-Api-Version") != API_VERSION:
                raise invalid(f"unknown API version; this is {API_VERSION}")
            with self.server.fake.data.lock:
                return request.route()
        except Refused as refused:
            return _refusal(request.path, refused.status, refused.code, refused.message)

    def _send(self, answer: Answer, body: bytes) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _failed(fault: Fault, path: str) -> Answer:
    assert fault.status is not None
    answer = _refusal(path, fault.status, 8 if fault.status == 429 else 13, f"told to answer {fault.status}")
    if fault.retry_after_s is not None:
        answer.headers["Retry-After"] = str(fault.retry_after_s)
    return answer


def _refusal(path: str, status: int, code: int, message: str) -> Answer:
    """Each plane has its own shape of errors."""
    if path.startswith("/indexes"):
        return Answer({"status": status, "error": {"code": CODES.get(status, "UNKNOWN"), "message": message}}, status)
    return Answer({"code": code, "message": message, "details": []}, status)


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=5080)
    parser.add_argument("--api-key", default=API_KEY)
    given = parser.parse_args()
    fake = FakePinecone(given.port, given.api_key, keep_exchanges=False)
    fake.start()
    sys.stdout.write(f"{fake.url}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
