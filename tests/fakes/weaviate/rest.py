"""Weaviate's REST: readiness, meta, the schema and the nodes, on the standard library's server."""

import json
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.weaviate.manners import Behaviour
from tests.fakes.weaviate.rpc import MESSAGE_BYTES
from tests.fakes.weaviate.store import Refused, Store, StoredClass


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what it got. Bodies are JSON; None where there is none."""

    method: str
    path: str
    query: dict[str, list[str]]
    asked: Any
    answer: Answer


class RestServer(ThreadingHTTPServer):
    """Answers from a store, and keeps every exchange."""

    daemon_threads = True

    def __init__(self, port: int, store: Store, behaviour: Behaviour, *, version: str, api_key: str | None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.store = store
        self.behaviour = behaviour
        self.version = version
        self.api_key = api_key
        self.exchanges: list[Exchange] = []
        self.sockets: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections, and break those that are open."""
        self.shutdown()
        self.server_close()
        for open_ in list(self.sockets):
            try:
                open_.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed meanwhile
        self._thread.join()

    def answer(self, method: str, path: str, asked: Any) -> Answer:
        """Answer one request, whose path begins after /v1/."""
        match method, path.strip("/").split("/"):
            case "GET", [".well-known", "ready" | "live"]:
                return Answer(200)
            case "GET", ["meta"]:
                meta = {"hostname": f"http://[::]:{self.server_address[1]}", "version": self.version, "modules": {}}
                return Answer(200, {**meta, "grpcMaxMessageSize": MESSAGE_BYTES})
            case "GET", ["schema"]:
                return Answer(200, {"classes": [kept.config for kept in self.store.classes.values()]})
            case "POST", ["schema"]:
                return Answer(200, self.store.create(asked).config)
            case "GET", ["schema", name]:
                return Answer(200, self.store.get(name).config) if name in self.store.classes else Answer(404)
            case "DELETE", ["schema", name]:
                self.store.classes.pop(name, None)
                return Answer(200)
            case "GET", ["nodes", name]:
                if name not in self.store.classes:
                    return Answer(404, _error(f"class {name} not found"))
                return Answer(200, {"nodes": [_node(self.store.get(name), self.version)]})
        return Answer(404, {"code": 404, "message": f"path /v1/{path} was not found"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RestServer

    def setup(self) -> None:
        super().setup()
        self.server.sockets.add(self.connection)

    def finish(self) -> None:
        self.server.sockets.discard(self.connection)
        super().finish()

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True  # the other side went away

    def log_message(self, *_: object) -> None:
        """Say nothing: a test reads what was recorded."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        length = int(self.headers["content-length"] or 0)
        asked = json.loads(self.rfile.read(length)) if length else None
        fault = self.server.behaviour.before(self.command)
        if fault is not None and fault.status is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        parts = urlsplit(self.path)
        answer = Answer(fault.status, _error("told to fail")) if fault and fault.status else self._answer(asked)
        self.server.exchanges.append(Exchange(self.command, parts.path, parse_qs(parts.query), asked, answer))
        self._send(answer)

    def _answer(self, asked: Any) -> Answer:
        sent = self.headers["authorization"]
        if self.server.api_key is not None and sent != f"Bearer {self.server.api_key}":
            return Answer(401, {"code": 401, "message": "unauthorized: invalid api key"})
        path = urlsplit(self.path).path
        if not path.startswith("/v1/"):
            return Answer(404)
        try:
            with self.server.store.lock:
                return self.server.answer(self.command, path.removeprefix("/v1/"), asked)
        except Refused as refusal:
            return Answer(422, _error(str(refusal)))

    def _send(self, answer: Answer) -> None:
        data = b"" if answer.body is None else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _error(message: str) -> dict[str, Any]:
    return {"error": [{"message": message}]}


def _node(kept: StoredClass, version: str) -> dict[str, Any]:
    waiting, count = kept.waiting, len(kept.objects)
    shard = {
        "name": "8HvnkPCVPHXF",
        "class": kept.name,
        "objectCount": count,
        "vectorIndexingStatus": "INDEXING" if waiting else "READY",
        "vectorQueueLength": waiting,
        "compressed": False,
        "loaded": True,
    }
    return {
        "name": "node1",
        "status": "HEALTHY",
        "version": version,
        "gitHash": "0000000",
        "stats": {"shardCount": 1, "objectCount": count},
        "batchStats": {"queueLength": 0, "ratePerSecond": 0},
        "shards": [shard],
    }
