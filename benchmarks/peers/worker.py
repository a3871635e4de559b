"""A process that drives one peer in the peer's own environment: a line of JSON in, a line of JSON out.

    PYTHONPATH=. .bench/chroma/bin/python -m benchmarks.peers.worker

    {"command": "open", "peer": "chroma", "postgres_url": URL or null, "folder": PATH}
        -> {"name", "versions", "open_s", "metrics", "has_filters", "has_effort", "has_batches"}
    {"command": "load", "rows": STEM, as `save_rows` wrote it}
        -> {"load_s", "size_bytes", "peak_rss_bytes", "rss_bytes"}
    {"command": "queries", "path": PATH.npy, of float32 [q, d]}
        -> {"queries": q}
    {"command": "search", "positions": [...], "top_k": 10, "effort": 40, "bound": null}
        -> {"ms": [one a query], "ids": [[...], ...]}
    {"command": "search_many", "positions": [...], "batch": 32, "top_k": 10, "effort": 40}
        -> {"ms": [one a batch], "ids": [[...], ...]}
    {"command": "close"}
        -> {"peak_rss_bytes", "rss_bytes"}

peak_rss_bytes is the most that the process had in memory since its load began, by when it had read the rows. effort and
bound may be null. A command that fails answers {"error": ...}, and the worker goes on. Each search stands between two
readings of the clock; nothing else does.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import numpy as np

from benchmarks.peers.protocol import Below, Embeddings, Json, Peer, Place, Rows

SPINNING_S = 0.01
"""OpenMP's threads spin so long, or a little less, after the last search of the peer whose turn it was before."""


class Worker:
    """The peer that is open, the queries it is asked, and what each command does."""

    def __init__(self) -> None:
        self._peer: Peer | None = None
        self._queries: Embeddings = np.empty((0, 0), dtype=np.float32)

    def answer(self, command: Json) -> Json:
        """Do one command; whatever goes wrong is told, not raised."""
        arguments = dict(command)
        try:
            action: Callable[..., Json] = getattr(self, f"do_{arguments.pop('command')}")
            return action(**arguments)
        except Exception as error:  # the harness decides what a failure means
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    def do_open(self, peer: str, folder: str, postgres_url: str | None = None) -> Json:
        """Import the peer's module and make the peer."""
        started = time.perf_counter()
        kind: type[Peer] = importlib.import_module(f"benchmarks.peers.{peer}").PEER
        self._peer = kind(Place(postgres_url, Path(folder)))
        return {
            "name": kind.name,
            "versions": {name: version(name) for name in kind.distributions},
            "open_s": time.perf_counter() - started,
            "metrics": list(kind.metrics),
            "has_filters": kind.has_filters,
            "has_effort": kind.has_effort,
            "has_batches": kind.has_batches,
        }

    def do_load(self, rows: str) -> Json:
        """Load the rows that lie in a file; reading the file is not timed."""
        read = read_rows(Path(rows))
        _forget_peak()
        started = time.perf_counter()
        self.peer.load(read)
        load_s = time.perf_counter() - started
        stored_s = load_s if self.peer.stored_at_s is None else self.peer.stored_at_s - started
        return {"load_s": load_s, "stored_s": stored_s, "size_bytes": self.peer.size_bytes(), **_memory()}

    def do_queries(self, path: str) -> Json:
        """Take the queries whose positions later commands name, in the peer's own form."""
        self._queries = self.peer.shaped(np.ascontiguousarray(np.load(path), dtype=np.float32))
        return {"queries": len(self._queries)}

    def do_search(self, positions: list[int], top_k: int, effort: int | None = None, bound: int | None = None) -> Json:
        """Search one query at a time."""
        below = None if bound is None else Below(bound)
        self.peer.prepare(effort)
        ms: list[float] = []
        ids: list[list[str]] = []
        for query in self._queries[positions]:
            started = time.perf_counter()
            found = self.peer.search(query, top_k, effort, below)
            ms.append((time.perf_counter() - started) * 1e3)
            ids.append(list(found))
        return {"ms": ms, "ids": ids}

    def do_search_many(self, positions: list[int], batch: int, top_k: int, effort: int | None = None) -> Json:
        """Search `batch` queries at a time."""
        self.peer.prepare(effort)
        ms: list[float] = []
        ids: list[list[str]] = []
        for start in range(0, len(positions), batch):
            queries = self._queries[positions[start : start + batch]]
            started = time.perf_counter()
            found = self.peer.search_many(queries, top_k, effort)
            ms.append((time.perf_counter() - started) * 1e3)
            ids.extend(map(list, found))
        return {"ms": ms, "ids": ids}

    def do_close(self) -> Json:
        """Close the peer; the worker ends after it."""
        self.peer.close()
        return _memory()

    @property
    def peer(self) -> Peer:
        """The peer that was opened."""
        if self._peer is None:
            raise ValueError("no peer is open yet")
        return self._peer


def save_rows(rows: Rows, stem: Path) -> None:
    """Write rows where a worker reads them: STEM.npz has the numbers, STEM.json the words."""
    np.savez(stem.with_suffix(".npz"), embeddings=rows.embeddings, numbers=rows.numbers)
    words = {"ids": rows.ids, "texts": rows.texts, "metric": rows.metric}
    stem.with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")


def read_rows(stem: Path) -> Rows:
    """Read what `save_rows` wrote."""
    words = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(stem.with_suffix(".npz")) as arrays:
        return Rows(embeddings=arrays["embeddings"].astype(np.float32, copy=False), numbers=arrays["numbers"], **words)


def serve(commands: TextIO, answers: TextIO) -> None:
    """Answer commands, one a line, until one says close or nobody is left to ask."""
    worker = Worker()
    for line in commands:
        command = json.loads(line)
        gc.collect()  # what the harness's JSON left behind is not the peer's to collect, within a measured search
        time.sleep(SPINNING_S)
        print(json.dumps(worker.answer(command)), file=answers, flush=True)
        if command["command"] == "close":
            return


def _forget_peak() -> None:
    """Let the kernel count the peak anew, so that neither imports nor the reading of the rows are in it."""
    with contextlib.suppress(OSError):  # where that is not allowed, or there is no /proc, it counts from the start
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory() -> Json:
    """What the process has in memory, and the most it had.

    Linux hands ru_maxrss on to the programs that a process starts: it would be the harness's peak where that is higher.
    The kernel's own high-water mark is of this program alone.
    """
    told = Path("/proc/self/status")
    if not told.exists():
        unit = 1 if sys.platform == "darwin" else 1_024  # ru_maxrss is in bytes there, in KiB elsewhere
        return {"rss_bytes": None, "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    lines = dict(line.split(":", 1) for line in told.read_text(encoding="utf-8").splitlines())
    rss, peak = (int(lines[name].split()[0]) * 1_024 for name in ("VmRSS", "VmHWM"))
    return {"rss_bytes": rss, "peak_rss_bytes": peak}


def _private_stdout() -> TextIO:
    """Keep standard output for answers alone; whatever a library prints goes to standard error."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


if __name__ == "__main__":
    serve(sys.stdin, _private_stdout())
