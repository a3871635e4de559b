"""Runs the real command in processes of its own."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status and its words."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Ragstone:
    """The command `ragstone --data DATA`, with the hashing model unless the environment says otherwise."""

    data: Path | str
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *args: object, stdin: int = subprocess.DEVNULL, **environment: str) -> Done:
        """Run a command to its end."""
        command = self._start(args, stdin=stdin, **environment)
        out, err = command.communicate(timeout=120)
        return Done(command.returncode, out, err)

    def start(self, *args: object, **environment: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own and leave it running."""
        return self._start(args, start_new_session=True, **environment)

    def ingest(self, collection: str, *paths: Path) -> Any:
        """Ingest, which must be fine, and return its JSON."""
        done = self("ingest", collection, *paths, "--json")
        assert done.status == 0, done.err
        return done.json

    @contextmanager
    def serving(self) -> Iterator["Server"]:
        """A server on a free port, from when it answers until the end, when it is stopped if it still runs."""
        process = self.start("serve", "--port", 0)
        try:
            yield Server(process, _announced_url(process))
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=60)

    def _start(
        self,
        args: tuple[object, ...],
        stdin: int = subprocess.DEVNULL,
        start_new_session: bool = False,
        **environment: str,
    ) -> subprocess.Popen[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("RAGSTONE_")}
        clean |= {"PYTHONPATH": str(ROOT), "RAGSTONE_EMBEDDING_MODEL": "hashing", "COLUMNS": "100"}
        return subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "--data", str(self.data), *map(str, args)],
            env=clean | self.environment | environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=start_new_session,
        )


@dataclass(frozen=True)
class Server:
    """A running `ragstone serve`."""

    process: subprocess.Popen[str]
    url: str

    def stop(self, number: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


def postgres_of(data: Path) -> list[psutil.Process]:
    """Return the PostgreSQL processes that work in the folder `data`."""
    return _processes(lambda process: process.name() == "postgres" and _works_in(process, data))


def left_running(data: Path) -> list[psutil.Process]:
    """Return the processes that work in the folder `data` or that were given it on their command line."""
    named = str(data.resolve())
    return _processes(lambda process: _works_in(process, data) or any(named in word for word in process.cmdline()))


def _works_in(process: psutil.Process, folder: Path) -> bool:
    return Path(process.cwd()).is_relative_to(folder.resolve())


def _processes(wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if wanted(process):
                found.append(process)
        except psutil.Error:
            continue  # it ended meanwhile
    return found


def wait_for(condition: Callable[[], object], within_s: float = 15.0) -> bool:
    """Wait until `condition()` holds; False where it did not within the time."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def _announced_url(process: subprocess.Popen[str]) -> str:
    """The URL in the first line that the server prints."""
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    threading.Thread(target=lambda out: lines.put(out.readline()), args=(process.stdout,), daemon=True).start()
    line = lines.get(timeout=60)
    assert "http://" in line, line + process.communicate(timeout=10)[1]
    return next(word for word in line.split() if word.startswith("http://"))
