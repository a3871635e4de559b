"""A collection moved round all backends while it is searched and written to: what fails, what is lost, what it costs.

    python -m benchmarks.moving [--rows 50000] [--dimension 128] [--npz FILE] [--rounds 5] [--out results.jsonl]

A real `ragstone serve` answers; `ragstone move start` moves, in a niced process of its own; Weaviate and Pinecone are
the test servers of the project's tests, which search exactly in NumPy, in processes of their own. Two threads search
over HTTP, one upserts embeddings through the library and looks each up at once, one deletes and looks whether what it
deleted comes back. Steady state is measured on the same backend right before each move, with the same load.
"""

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import retrieval
from backends.corpus.indexes import chunk_ids
from backends.types import Embeddings
from benchmarks.stores import free_port, process, stores, until_open
from retrieval.collection import Collection
from retrieval.config import load

NAME = "moved"
ROUTE = ("faiss", "weaviate", "pinecone", "pgvector")
STEADY_S = 8.0
SEARCHERS = 2
THINK_S = 0.01
WRITE_EVERY_S = 0.1
DELETE_EVERY_S = 0.25
ROWS_PER_WRITE = 20
TOP_K = 10
COMPARE_EVERY = 20
PATIENCE = {"RAGSTONE_STATEMENT_BUDGET_MS": "5000", "RAGSTONE_BACKEND_TIMEOUT_S": "5"}
"""An old index is dropped when the longest query is over: not to wait so long for that, between two legs."""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is stopped then, too
    arguments = _arguments()
    embeddings = _embeddings(arguments)
    with tempfile.TemporaryDirectory() as folder, stores() as environment:
        os.environ |= environment | PATIENCE
        settings = load(data=folder, embedding_model="hashing", pool_size=8, old_index_kept_s=0)
        with retrieval.open(folder, settings=settings) as rag, _serving(folder) as url:
            collection = rag.create_collection(NAME, dimension=embeddings.shape[1], metric="l2")
            ids = [f"d{n}" for n in range(arguments.rows)]
            collection.upsert_embeddings(ids, embeddings[: arguments.rows], [f"text of {id_}" for id_ in ids])
            collection.wait_until_indexed(1_800)
            route = arguments.route.split(",")
            load_ = Load(url, collection, embeddings, arguments.rows)
            try:
                legs = [leg for _ in range(arguments.rounds) for leg in _circle(load_, folder, route)]
            finally:
                load_.stop()
            results = [*_summary(legs, arguments.rounds), _afterwards(rag, collection, load_)]
    _print(results, arguments, embeddings.shape[1])


@dataclass
class Load:
    """The load, and everything that it saw."""

    url: str
    collection: Collection
    embeddings: Embeddings
    rows: int
    latencies: list[tuple[float, float, str]] = field(default_factory=list)  # when it ended, ms, backend
    failures: list[str] = field(default_factory=list)
    recalls: list[float] = field(default_factory=list)
    acknowledged: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    lookups: int = 0

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        loops = [self._search] * SEARCHERS + [self._write, self._delete]
        self._threads = [threading.Thread(target=self._loop, args=(loop, n)) for n, loop in enumerate(loops)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop, and wait for what is under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def between(self, start_s: float, end_s: float) -> list[float]:
        """Return the latencies in ms of the searches that ended in this time."""
        return [took for ended, took, _ in list(self.latencies) if start_s <= ended < end_s]

    def _loop(self, step: Any, number: int) -> None:
        drawn = random.Random(number)  # noqa: S311  # repeatable, not secret
        with httpx.Client(base_url=f"{self.url}/v1/collections/{NAME}", timeout=60) as client:
            while not self._stopping.is_set():
                try:
                    step(client, drawn)
                except Exception as error:
                    self.failures.append(f"{step.__name__}: {type(error).__name__} {error}")

    def _search(self, client: httpx.Client, drawn: random.Random) -> None:
        query = self.embeddings[drawn.randrange(self.rows, len(self.embeddings))].tolist()
        started_s = time.monotonic()
        found = _ask(client, query, TOP_K)
        ended_s = time.monotonic()
        self.latencies.append((ended_s, (ended_s - started_s) * 1e3, found["index"]["backend"]))
        if len(found["results"]) != TOP_K:
            self.failures.append(f"search: {len(found['results'])} hits")
        if len(self.latencies) % COMPARE_EVERY == 0:
            true = {hit["id"] for hit in _ask(client, query, TOP_K, exact=True)["results"]}
            self.recalls.append(len(true & {hit["id"] for hit in found["results"]}) / TOP_K)
        time.sleep(THINK_S)

    def _write(self, client: httpx.Client, drawn: random.Random) -> None:
        """New documents and new versions of old ones; one of them is looked up at once."""
        rows = [drawn.randrange(self.rows, len(self.embeddings)) for _ in range(ROWS_PER_WRITE)]
        with self._lock:
            ids = {f"w{drawn.randrange(20 * self.rows)}": row for row in rows}
            self.deleted -= ids.keys()
            picked = self.embeddings[list(ids.values())]
            jitter = np.random.default_rng(drawn.randrange(1 << 30)).normal(0, 1e-2, picked.shape)
            moved = (picked * (1 + jitter)).astype(np.float32)
            self.collection.upsert_embeddings(list(ids), moved, ["written"] * len(ids))
            self.acknowledged |= ids
            first = next(iter(ids))
            missed = self._missed(client, first, moved[0].tolist())
        self.lookups += 1
        if missed:
            self.failures.append(f"write: {first} was acknowledged, then {missed}")
        self._stopping.wait(WRITE_EVERY_S)

    def _missed(self, client: httpx.Client, id_: str, embedding: list[float]) -> list[str]:
        """What was found instead, and by what; looked at again, so that it can be understood."""
        seen = []
        for wait_s in (0, 0.01, 2):
            time.sleep(wait_s)
            found = _ask(client, embedding, 1)
            if found["results"][0]["id"] == id_:
                break
            seen.append(f"{found['results'][0]['id']} found by {found['index']} after {wait_s} s")
        return seen

    def _delete(self, client: httpx.Client, drawn: random.Random) -> None:
        with self._lock:
            if len(self.acknowledged) > ROWS_PER_WRITE:
                gone = drawn.sample(sorted(self.acknowledged), 5)
                rows = [self.acknowledged.pop(id_) for id_ in gone]
                client.post("/documents/delete", json={"ids": gone}).raise_for_status()
                self.deleted |= set(gone)
                found = {hit["id"] for hit in _ask(client, self.embeddings[rows[0]].tolist(), 50)["results"]}
                if back := found & self.deleted:
                    self.failures.append(f"delete: {sorted(back)} came back")
        self._stopping.wait(DELETE_EVERY_S)


def _ask(client: httpx.Client, embedding: list[float], top_k: int, exact: bool = False) -> Any:
    answer = client.post("/search", json={"embedding": embedding, "top_k": top_k, "exact": exact})
    answer.raise_for_status()
    return answer.json()


def _circle(load_: Load, folder: str, route: list[str]) -> Iterator[dict[str, Any]]:
    """Move round once; each leg with the steady state before it."""
    for target in route:
        time.sleep(2)
        before_s = time.monotonic()
        time.sleep(STEADY_S)
        start_s = time.monotonic()
        source = load_.latencies[-1][2]
        move = _ragstone(folder, "move", "start", NAME, "--to", target)
        end_s = time.monotonic()
        _wait_for(load_, target)
        _ragstone(folder, "move", "finish", NAME)
        yield {
            "leg": f"{source} to {target}",
            "steady": load_.between(before_s, start_s),
            "moving": load_.between(start_s, end_s),
            "took_s": end_s - start_s,
            "build_s": move["build_s"],
            "verification": move["verification"],
        }


def _summary(legs: list[dict[str, Any]], rounds: int) -> Iterator[dict[str, Any]]:
    """One line a leg: medians over the rounds."""
    for name in dict.fromkeys(leg["leg"] for leg in legs):
        mine = [leg for leg in legs if leg["leg"] == name]
        steady = [float(np.percentile(leg["steady"], 99)) for leg in mine]
        moving = [float(np.percentile(leg["moving"], 99)) for leg in mine]
        ratios = [after / before for before, after in zip(steady, moving, strict=True)]
        yield {
            "what": "move",
            "leg": name,
            "rounds": rounds,
            "p50_ms": {
                "steady": round(statistics.median(statistics.median(leg["steady"]) for leg in mine), 2),
                "moving": round(statistics.median(statistics.median(leg["moving"]) for leg in mine), 2),
            },
            "p99_ms": {"steady": round(statistics.median(steady), 2), "moving": round(statistics.median(moving), 2)},
            "ratio_p99": round(statistics.median(ratios), 2),
            "ratios_p99": [round(ratio, 2) for ratio in ratios],
            "took_s": round(statistics.median(leg["took_s"] for leg in mine), 1),
            "recall": round(min(leg["verification"]["recall"] for leg in mine), 4),
        }


def _afterwards(rag: retrieval.Ragstone, collection: Collection, load_: Load) -> dict[str, Any]:
    """What was acknowledged is there once, what was deleted is not, and nothing failed."""
    kept = {f"d{n}" for n in range(load_.rows)} | load_.acknowledged.keys()
    found: set[str] = set()
    after = None
    while page := collection.documents(limit=1_000, after=after):
        found |= {document.id for document in page}
        after = page[-1].id
    with rag.database.dedicated() as connection:
        chunks = len(chunk_ids(connection, collection._searches.route.state))
    return {
        "what": "after all moves",
        "searches": len(load_.latencies),
        "failures": load_.failures[:20],
        "failed": len(load_.failures),
        "lookups_after_a_write": load_.lookups,
        "lost": len(kept - found),
        "too_many": len(found - kept),
        "chunks_less_documents": chunks - len(found),
        "recall_throughout": round(statistics.mean(load_.recalls), 4),
        "recall_compared": len(load_.recalls),
    }


def _wait_for(load_: Load, backend: str) -> None:
    deadline_s = time.monotonic() + 60
    while load_.latencies[-1][2] != backend:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"no search went to {backend} within a minute; {load_.failures[-3:]}")
        time.sleep(0.1)


def _ragstone(folder: str, *words: str) -> Any:
    command = [sys.executable, "-m", "ops.cli", "--data", folder, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own command
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stdout} {done.stderr}")
    return json.loads(done.stdout)


@contextmanager
def _serving(folder: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "ops.cli", "--data", folder, "serve", "--port", str(port)]
    environment = os.environ | {"RAGSTONE_EMBEDDING_MODEL": "hashing", "RAGSTONE_PLACEMENT": "advise"}
    with process(command, environment):
        until_open(port)
        yield f"http://127.0.0.1:{port}"


def _embeddings(arguments: argparse.Namespace) -> Embeddings:
    """A fifth more than are loaded first: queries and later writes."""
    count = arguments.rows + arguments.rows // 5
    if arguments.npz is not None:
        found: Embeddings = np.load(arguments.npz)["train"][:count].astype(np.float32)
        return found
    drawn = np.random.default_rng(0)
    centres = drawn.normal(size=(count // 50, arguments.dimension))
    points = centres[drawn.integers(0, len(centres), count)] + 0.5 * drawn.normal(size=(count, arguments.dimension))
    made: Embeddings = points.astype(np.float32)
    return made


def _print(results: list[dict[str, Any]], arguments: argparse.Namespace, dimension: int) -> None:
    described = {"python": platform.python_version(), "rows": arguments.rows, "dimension": dimension}
    for result in results:
        print(json.dumps(result))
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**described, **result}) + "\n" for result in results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dimension", type=int, default=128, help="of made-up embeddings in clusters")
    parser.add_argument("--npz", type=Path, help="use the array `train` of this file instead")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--route", default=",".join(ROUTE), help="the backends in turn; pgvector comes last")
    parser.add_argument("--out", type=Path, help="append the results to this file, one JSON document a line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
