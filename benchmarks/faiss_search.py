"""A collection on FAISS, searched through the library, beside the same FAISS index searched raw, in turn.

    python -m benchmarks.faiss_search [--npz mnist-784.npz | --rows 1000000 --dimension 128] [--out results.jsonl]

Raw is what a program around FAISS would do: `index.search` on the very segments that the adapter searches, with the
same effort, ids alone. Through the library a search also joins text and metadata and scores exactly in PostgreSQL.
Recall@10 is against an exact search in the corpus. The build, the restart and memory are of the whole collection.
"""

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

import retrieval
from backends.faiss import FaissIndex
from backends.types import Embeddings
from backends.vectors import prepare
from ops import moving
from ops.measures import percentiles, recall_at_k
from retrieval.collection import Collection
from retrieval.config import Settings, load

NAME = "on-faiss"
TOP_K = 10
CANDIDATES = 40
QUERIES = 1_000
BLOCK_QUERIES = 50
TRUE_QUERIES = 100
ROWS_AT_ONCE = 100_000


def main() -> None:
    arguments = _arguments()
    train, queries = _vectors(arguments)
    with tempfile.TemporaryDirectory() as folder:
        settings = load(data=folder, embedding_model="hashing", index_min_chunks=10**9)
        built = _build(settings, train)
        with retrieval.open(folder, settings=settings) as rag:
            started_s = time.perf_counter()
            collection = rag.collection(NAME)
            collection.search(queries[0])
            built["restart_s"] = round(time.perf_counter() - started_s, 2)
            results = [built, _search(collection, queries, arguments.rounds)]
    described = {"python": platform.python_version(), "faiss": faiss.__version__}
    described |= {"rows": len(train), "dimension": train.shape[1]}
    for result in results:
        print(json.dumps(result))
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**described, **result}) + "\n" for result in results)


def _build(settings: Settings, train: Embeddings) -> dict[str, Any]:
    """Load the corpus, move it to FAISS, and say what that took."""
    with retrieval.open(settings=settings) as rag:
        collection = rag.create_collection(NAME, dimension=train.shape[1], metric="l2")
        started_s = time.perf_counter()
        for start in range(0, len(train), ROWS_AT_ONCE):
            part = train[start : start + ROWS_AT_ONCE]
            ids = [f"d{n:08d}" for n in range(start, start + len(part))]
            collection.upsert_embeddings(ids, part, ["some text"] * len(ids), [{"n": n % 100} for n in range(len(ids))])
        loaded_s = time.perf_counter()
        move = moving.work_on(rag, moving.start(rag, NAME, "faiss"))
        moved_s = time.perf_counter()
        assert move.phase == "done", move
        assert move.verification is not None
    with retrieval.open(settings=settings) as rag:
        stats = _index(rag.collection(NAME)).stats()
    return {
        "what": "build",
        "load_s": round(loaded_s - started_s, 1),
        "build_s": round(move.build_s or 0, 1),
        "move_s": round(moved_s - loaded_s, 1),
        "kind": stats.details["kind"],
        "size_bytes": stats.size_bytes,
        "bytes_per_vector": round(stats.size_bytes / len(train), 1),
        "least_bytes_per_vector": 2 * train.shape[1],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _search(collection: Collection, queries: Embeddings, rounds: int) -> dict[str, Any]:
    """One search at a time: raw FAISS, the adapter, the library, blocks of each in turn."""
    index = _index(collection)
    prepared = prepare(queries, index.spec)

    def raw(position: int) -> object:
        return [_raw(segment, prepared[position][None]) for segment in _segments(index)]

    def adapter(position: int) -> object:
        return index.search(prepared[position][None], CANDIDATES)

    def library(position: int) -> object:
        return collection.search(queries[position], TOP_K)

    faiss.omp_set_num_threads(1)
    times = _interleaved({"raw": raw, "adapter": adapter, "library": library}, len(queries), rounds)
    found = {name: percentiles([took * 1e3 for took in values], (50, 99)) for name, values in times.items()}
    return {
        "what": "search",
        "p50_ms": {name: round(value["p50"], 3) for name, value in found.items()},
        "p99_ms": {name: round(value["p99"], 3) for name, value in found.items()},
        "library_less_raw_p50_ms": round(found["library"]["p50"] - found["raw"]["p50"], 3),
        "recall": {"library": _recall(collection, queries), "raw": _raw_recall(collection, index, queries)},
    }


def _raw(segment: Any, query: Embeddings) -> Any:
    return segment.index.search(query, CANDIDATES, params=faiss.SearchParametersHNSW(efSearch=CANDIDATES))


def _segments(index: FaissIndex) -> Any:
    assert index._state is not None
    return index._state.segments


def _recall(collection: Collection, queries: Embeddings) -> float:
    recalls = []
    for query in queries[:TRUE_QUERIES]:
        true = collection.search(query, TOP_K, exact=True)
        found = collection.search(query, TOP_K)
        recalls.append(recall_at_k([h.id for h in found], [h.score for h in found], [h.score for h in true], TOP_K))
    return round(statistics.mean(recalls), 4)


def _raw_recall(collection: Collection, index: FaissIndex, queries: Embeddings) -> float:
    """Of the ten that raw FAISS puts first: its own distances, not the corpus's."""
    recalls = []
    for query in queries[:TRUE_QUERIES]:
        true = collection.search(query, TOP_K, exact=True)
        worst = -true[-1].score
        prepared = prepare(query[None], index.spec)
        distances = np.sort(np.concatenate([_raw(segment, prepared)[0][0] for segment in _segments(index)]))[:TOP_K]
        recalls.append(float((np.sqrt(np.maximum(distances, 0)) <= worst * (1 + 1e-3)).mean()))
    return round(statistics.mean(recalls), 4)


def _interleaved(calls: dict[str, Callable[[int], object]], count: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, a block of one after a block of the other."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for start in range(0, count, BLOCK_QUERIES):
            for name, call in calls.items():
                for position in range(start, min(start + BLOCK_QUERIES, count)):
                    began_s = time.perf_counter()
                    call(position)
                    times[name].append(time.perf_counter() - began_s)
    return times


def _index(collection: Collection) -> FaissIndex:
    index = collection._searches.route.index.index
    assert isinstance(index, FaissIndex)
    return index


def _vectors(arguments: argparse.Namespace) -> tuple[Embeddings, Embeddings]:
    if arguments.npz is not None:
        with np.load(arguments.npz) as file:
            return file["train"].astype(np.float32), file["test"][:QUERIES].astype(np.float32)
    drawn = np.random.default_rng(0)
    count = arguments.rows + QUERIES
    centres = drawn.normal(size=(max(1, count // 100), arguments.dimension)).astype(np.float32)
    points = centres[drawn.integers(0, len(centres), count)]
    points += 0.5 * drawn.standard_normal(points.shape, dtype=np.float32)
    return points[: arguments.rows], points[arguments.rows :]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path, help="arrays `train` and `test`, compared by l2")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of made-up embeddings in clusters of a hundred")
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="append the results to this file, one JSON document a line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
