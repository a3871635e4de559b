"""What every server in the contest must say of itself, and its process."""

import json
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, ClassVar

import psutil

from benchmarks.harness.datasets import DataSet
from benchmarks.harness.workers import Stage, WorkerProcess
from benchmarks.peers import environments
from benchmarks.peers.protocol import Embeddings, Metric
from benchmarks.stores import free_port

Json = dict[str, Any]
HOST = "127.0.0.1"
PATIENCE_S = 60.0
TOP_K = 10
LAST_WORDS_CHARACTERS = 600


class ServerFailed(Exception):
    """A server did not start, or answered something else than hits; the words say which and what."""


class Server(ABC):
    """One server: how it is loaded, started and asked. One process of it runs at a time."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]] = ("cosine", "l2")
    is_searching: ClassVar[bool] = True
    has_our_index: ClassVar[bool] = False
    """The same kind of graph, made the same way: at the same effort recall differs by chance alone."""

    def __init__(self, data: DataSet, stage: Stage, url: str, folder: Path) -> None:
        self.data = data
        self.stage = stage
        self.url = url
        self.folder = folder
        self.port = free_port()
        self._pid: int | None = None

    @abstractmethod
    def load(self) -> None:
        """Store the data set where `command` will find it."""

    @abstractmethod
    def command(self) -> list[str]:
        """The process that serves it on `port`."""

    @abstractmethod
    def asked(self, embedding: Embeddings) -> tuple[str, Json]:
        """Path and body of a POST that searches for the ten nearest rows, texts and metadata included."""

    @abstractmethod
    def ids(self, answer: Any) -> list[str]:
        """The ids in an answer, nearest first."""

    @abstractmethod
    def set_effort(self, effort: int) -> None:
        """Let the process that is started next search with this ef_search."""

    def environment(self) -> Mapping[str, str]:
        """More variables for the process."""
        return {}

    def request(self, embedding: Embeddings) -> bytes:
        """The whole HTTP request, as the load client sends it."""
        path, body = self.asked(embedding)
        encoded = json.dumps(body, separators=(",", ":")).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {HOST}:{self.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(encoded)}\r\n\r\n"
        )
        return head.encode() + encoded

    def search(self, embedding: Embeddings) -> list[str]:
        """Ask once, and read the answer in full."""
        path, body = self.asked(embedding)
        return self.ids(self.exchange("POST", path, body))

    def exchange(self, method: str, path: str, body: Json | None = None) -> Any:
        """Send one request over a connection of its own; raises ServerFailed for any answer but a good one."""
        connection = HTTPConnection(HOST, self.port, timeout=PATIENCE_S)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ServerFailed(f"{self.name} answered {answer.status} to {path}: {text[:LAST_WORDS_CHARACTERS]!r}")
        return json.loads(text)

    def load_through(self, peer: str) -> None:
        """Let the peer's own library store the rows, in its environment, and end."""
        python = environments.interpreter(peer)
        if python is None:
            raise ServerFailed(f"{peer} is not installed: make bench-peers")
        with WorkerProcess(peer, python, self.folder, self.url) as worker:
            worker.ask(command="load", rows=str(self.stage.saved(self.data)))

    @contextmanager
    def running(self) -> Iterator[None]:
        """The process, from its first answer until the end of the block."""
        log = self.folder.with_suffix(".server.log")
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  # a server of ours or of a peer
                self.command(),
                env=os.environ | environments.variables() | dict(self.environment()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._pid = process.pid
        try:
            self._wait_for_answer(process, log)
            yield
        finally:
            self._pid = None
            _end(process)

    def cpu_s(self) -> float:
        """Processor time that the process has taken, and its children; what PostgreSQL takes for it is not in it."""
        running = psutil.Process(self._pid)
        return float(sum(sum(one.cpu_times()[:2]) for one in (running, *running.children(recursive=True))))

    def _wait_for_answer(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.search(self.data.queries[0])
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline_s:
                    words = log.read_text(encoding="utf-8", errors="replace")[-LAST_WORDS_CHARACTERS:]
                    raise ServerFailed(f"{self.name} does not answer ({error}): {words}") from error
                time.sleep(0.1)
            else:
                return


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
