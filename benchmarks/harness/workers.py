"""Peers in processes of their own, each with its own environment, database and folder."""

import contextlib
import json
import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import psycopg

from benchmarks.harness.datasets import DataSet
from benchmarks.peers import environments
from benchmarks.peers.worker import save_rows

Json = dict[str, Any]
PATIENCE_S = 7_200
ENDS_WITHIN_S = 30
TAIL_CHARACTERS = 600


class WorkerFailed(Exception):
    """A peer did not do what it was asked; the words say which and why."""


class WorkerProcess:
    """One peer. What it answers is described in `benchmarks/peers/worker.py`."""

    def __init__(self, peer: str, python: Path, folder: Path, postgres_url: str | None) -> None:
        self.peer = peer
        folder.mkdir(parents=True, exist_ok=True)
        self._errors_path = folder.with_suffix(".log")
        started_s = time.perf_counter()
        self._process = self._started(python)
        try:
            self.opened = self.ask(command="open", peer=peer, folder=str(folder), postgres_url=postgres_url)
        except WorkerFailed:
            self.close()
            raise
        self.start_s = time.perf_counter() - started_s
        self._rss_when_opened = resident_bytes(self._process.pid)
        self.loaded: Json = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, **command: object) -> Json:
        """Send a command and wait for its answer. Raises WorkerFailed, also where the process is gone or hangs."""
        sent, received = self._pipes()
        clock = threading.Timer(PATIENCE_S, self._process.kill)
        clock.start()
        try:
            sent.write(json.dumps(command) + "\n")
            sent.flush()
            line = received.readline()
        except BrokenPipeError:
            line = ""
        finally:
            clock.cancel()
        answer: Json = json.loads(line) if line else {"error": f"the process ended: {self._last_words()}"}
        if "error" in answer:
            raise WorkerFailed(f"{self.peer} at {command['command']}: {answer['error']}")
        return answer

    def load(self, stem: Path) -> Json:
        """Let it store the rows and learn the queries that `saved` wrote."""
        answer = self.ask(command="load", rows=str(stem))
        self.ask(command="queries", path=str(stem) + "-queries.npy")  # by then the rows that were read are given back
        self.loaded = answer | {"memory_grown_bytes": resident_bytes(self._process.pid) - self._rss_when_opened}
        return self.loaded

    def search(self, positions: list[int], effort: int | None, bound: int | None, top_k: int = 10) -> Json:
        """Let it search for these queries, one after the other."""
        return self.ask(command="search", positions=positions, top_k=top_k, effort=effort, bound=bound)

    def search_many(self, positions: list[int], batch: int, effort: int | None, top_k: int = 10) -> Json:
        """Let it search for these queries in batches."""
        return self.ask(command="search_many", positions=positions, batch=batch, top_k=top_k, effort=effort)

    def close(self) -> None:
        """End the process, gently where it can."""
        with contextlib.suppress(WorkerFailed):
            self.ask(command="close")
        with contextlib.suppress(BrokenPipeError), self._process as process:  # whose end closes the pipes and waits
            try:
                process.wait(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _started(self, python: Path) -> "subprocess.Popen[str]":
        with self._errors_path.open("a", encoding="utf-8") as errors:
            return subprocess.Popen(  # noqa: S603  # our own module
                [str(python), "-m", "benchmarks.peers.worker"],
                env=os.environ | environments.variables(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _last_words(self) -> str:
        return self._errors_path.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARACTERS:].strip()


class Stage:
    """Where workers run: a PostgreSQL, and a folder for what peers and harness write."""

    def __init__(self, postgres_url: str, folder: Path) -> None:
        self.postgres_url = postgres_url
        self.folder = folder
        self._databases = 0

    def saved(self, data: DataSet) -> Path:
        """Write rows and queries where workers read them, once, and return the stem of the files' names."""
        stem = self.folder / f"rows-{data.checksum[:16]}"
        if not stem.with_suffix(".npz").exists():
            save_rows(data.rows(), stem)
            np.save(str(stem) + "-queries.npy", data.queries)
        return stem

    @contextmanager
    def worker(self, peer: str) -> Iterator[WorkerProcess]:
        """A process with the peer, and an empty database that is gone afterwards."""
        python = environments.interpreter(peer)
        if python is None:
            raise WorkerFailed(f"{peer} is not installed: make bench-peers")
        with self.database() as url:
            folder = self.folder / f"{peer}-{self._databases}"
            with WorkerProcess(peer, python, folder, url) as worker:
                yield worker

    @contextmanager
    def database(self) -> Iterator[str]:
        """A database of one's own: what one peer leaves there is in nobody's way."""
        self._databases += 1
        name = f"bench_{os.getpid()}_{self._databases}"
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield database_url(self.postgres_url, name)
        finally:
            with psycopg.connect(self.postgres_url, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())

    @contextmanager
    def loaded(self, data: DataSet, peers: list[str], failures: list[str]) -> Iterator[dict[str, WorkerProcess]]:
        """Workers that hold the data set; a peer that fails is left out, and told of in `failures`."""
        stem = self.saved(data)
        with ExitStack() as stack:
            workers: dict[str, WorkerProcess] = {}
            for peer in peers:
                try:
                    worker = stack.enter_context(self.worker(peer))
                    worker.load(stem)
                    workers[peer] = worker
                except WorkerFailed as failure:
                    failures.append(str(failure))
            yield workers


def resident_bytes(pid: int) -> int:
    """What a process has in memory now; 0 where the system does not tell."""
    told = Path(f"/proc/{pid}/statm")
    return int(told.read_text(encoding="ascii").split()[1]) * resource.getpagesize() if told.exists() else 0


def database_url(url: str, name: str) -> str:
    """The URL of another database on the same server; `url` names one itself."""
    base, _, query = url.partition("?")
    return f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")
