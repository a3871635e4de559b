"""Recall@10 of every backend in its default mode, through the library, against an exact search in the corpus.

    python -m benchmarks.recall --npz mnist-784.npz
    python -m benchmarks.recall --documents minilm_docs.npy --queries minilm_queries.npy

The first compares by l2 (arrays `train` and `test`), the second by cosine. One collection goes from backend to
backend as `ragstone move` would take it; Weaviate and Pinecone are the project's test servers, which search exactly.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import retrieval
from backends.types import Embeddings, Metric
from benchmarks.stores import stores
from ops import moving
from ops.measures import percentiles, recall_at_k
from retrieval.collection import Collection
from retrieval.config import load

NAME = "recalled"
ROUTE = ("faiss", "weaviate", "pinecone")
TOP_K = 10


def main() -> None:
    arguments = _arguments()
    documents, queries, metric = _vectors(arguments)
    queries = queries[: arguments.count]
    with tempfile.TemporaryDirectory() as folder, stores() as environment:
        os.environ |= environment
        settings = load(data=folder, embedding_model="hashing")
        with retrieval.open(folder, settings=settings) as rag:
            collection = rag.create_collection(NAME, dimension=documents.shape[1], metric=metric)
            ids = [f"d{n}" for n in range(len(documents))]
            collection.upsert_embeddings(ids, documents, [f"text of {id_}" for id_ in ids])
            collection.wait_until_indexed(1_800)
            true = [collection.search(query, TOP_K, exact=True) for query in queries]
            results = [_measured(collection, queries, true)]
            for target in ROUTE:
                move = moving.work_on(rag, moving.start(rag, NAME, target))
                assert move.phase == "done", move
                _arrive(collection, target, queries[0])
                results.append(_measured(collection, queries, true) | {"build_s": round(move.build_s or 0, 1)})
    for result in results:
        print(json.dumps({"rows": len(documents), "dimension": documents.shape[1], "metric": metric} | result))


def _measured(collection: Collection, queries: Embeddings, true: list[list[retrieval.Hit]]) -> dict[str, Any]:
    recalls, took_ms = [], []
    for query, exact in zip(queries, true, strict=True):
        started_s = time.perf_counter()
        found = collection.search_with_timings(query, TOP_K)
        took_ms.append((time.perf_counter() - started_s) * 1e3)
        scores = [hit.score for hit in found.hits]
        recalls.append(recall_at_k([hit.id for hit in found.hits], scores, [hit.score for hit in exact], TOP_K))
    p50, p99 = percentiles(took_ms, (50, 99)).values()
    return {
        "backend": found.backend,
        "exact": found.exact,
        "queries": len(queries),
        "recall": round(statistics.mean(recalls), 4),
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
    }


def _arrive(collection: Collection, backend: str, query: Embeddings) -> None:
    """The index before serves until the new one is open here."""
    deadline_s = time.monotonic() + 60
    while collection.search_with_timings(query, 1).backend != backend:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"no search went to {backend} within a minute")
        time.sleep(0.1)


def _vectors(arguments: argparse.Namespace) -> tuple[Embeddings, Embeddings, Metric]:
    if arguments.npz is not None:
        with np.load(arguments.npz) as file:
            return file["train"].astype(np.float32), file["test"].astype(np.float32), "l2"
    documents, queries = np.load(arguments.documents), np.load(arguments.queries)
    return documents.astype(np.float32), queries.astype(np.float32), "cosine"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npz", type=Path)
    parser.add_argument("--documents", type=Path)
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--count", type=int, default=300, help="queries to ask")
    return parser.parse_args()


if __name__ == "__main__":
    main()
