"""A model server on loopback that gives the metrics it is told to: a real vLLM's page, with other numbers in it."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ops.generation.engine import EngineWatch
from retrieval.generation.address import ServerAddress
from retrieval.generation.metrics_page import MetricsPage

PAGE = (Path(__file__).parent / "vllm-0.32-metrics.txt").read_text(encoding="utf-8")
"""What vLLM 0.32 gave after three requests, less the buckets of its histograms."""
EXPOSITION = "text/plain; version=1.0.0; charset=utf-8"
MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model", "max_model_len": 4096}]}


def page(**values: float) -> str:
    """Return vLLM's page with these values, by what follows `vllm:` in the names, in the first sample of each."""
    text = PAGE
    for name, value in values.items():
        text, found = re.subn(
            rf"^(vllm:{name}(?:{{[^}}]*}})?) .*$", rf"\g<1> {value}", text, count=1, flags=re.MULTILINE
        )
        assert found, f"vLLM has no {name}"
    return text


class EngineServer(ThreadingHTTPServer):
    """Gives `text` at `path`, with `status` and `content_type`, and the name of its model at /v1/models.

    It waits `pause_s` before each part of 1,000 characters.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.text = PAGE
        self.path = "/metrics"
        self.status = 200
        self.content_type = EXPOSITION
        self.headers: dict[str, str] = {}
        self.pause_s = 0.0
        self.asked: list[str] = []

    def says(self, **values: float) -> None:
        """Give these values from now on."""
        self.text = page(**values)


@contextmanager
def engine_server(port: int = 0) -> Iterator[EngineServer]:
    """Run such a server."""
    server = EngineServer(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Clock:
    """Seconds that pass as a test says."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def watching(url: str, clock: Callable[[], float] = time.monotonic, timeout_s: float = 2.0) -> Iterator[EngineWatch]:
    """Someone who looks at the metrics of a server when told to."""
    watch = EngineWatch(MetricsPage(ServerAddress(url, None), timeout_s), clock)
    try:
        yield watch
    finally:
        watch.close()


class _Handler(BaseHTTPRequestHandler):
    server: EngineServer

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.path)
        if self.path == "/v1/models":
            self._send(200, "application/json", json.dumps(MODELS))
        elif self.path == server.path:
            self._send(server.status, server.content_type, server.text)
        else:
            self._send(404, "application/json", '{"detail": "Not Found"}')

    def _send(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {**self.server.headers, "Content-Type": content_type, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        try:
            for begin in range(0, len(body), 1_000):
                time.sleep(self.server.pause_s)
                self.wfile.write(body[begin : begin + 1_000])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader had enough
