"""A question in words through the library, by stage: embedding, search, and what is left."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import retrieval
from benchmarks.harness.datasets import FOLDER_VARIABLE
from benchmarks.harness.plan import Bench
from benchmarks.harness.rounds import spread
from benchmarks.harness.synthetic import texts
from ops.measures import percentiles
from retrieval.config import load

Json = dict[str, Any]
SMALL_DOCUMENTS = 300
QUESTIONS = 100
TOP_K = 10


def text_queries(bench: Bench) -> Iterator[Json]:
    """Ask with the default model, and no query twice in a round; the cache of queries is off."""
    name, documents, questions = _asked(bench)
    settings = load(embedding_cache_queries=0)
    with bench.stage.database() as url, retrieval.open(url, settings=settings) as rag:
        collection = rag.create_collection("texts")
        collection.upsert(documents)
        collection.wait_until_indexed()
        for question in questions[:10]:
            collection.retrieve(question, TOP_K)
        rounds = [_round(collection, questions) for _ in range(bench.sizes.rounds)]
    p50_ms = {stage: spread([one[stage] for one in rounds]) for stage in rounds[0]}
    yield {"what": "text", "where": f"{name}, {len(documents):,} documents", "p50_ms": p50_ms}


def _round(collection: retrieval.Collection, questions: list[str]) -> dict[str, float]:
    took_ms: dict[str, list[float]] = {}
    for question in questions:
        started_s = time.perf_counter()
        found = collection.retrieve_with_timings(question, TOP_K)
        total_ms = (time.perf_counter() - started_s) * 1e3
        for stage, ms in (found.timings_ms | {"all": total_ms}).items():
            took_ms.setdefault(stage, []).append(ms)
    return {stage: percentiles(values, (50,))["p50"] for stage, values in took_ms.items()}


def _asked(bench: Bench) -> tuple[str, list[retrieval.Document], list[str]]:
    """SciFact where it is at hand and the run is a full one, else made-up words."""
    folder = Path(os.environ.get(FOLDER_VARIABLE, "")) / "scifact"
    if bench.sizes.name == "full" and (folder / "corpus.jsonl").exists():
        documents = [
            retrieval.Document(id=one["_id"], title=one["title"], text=one["text"])
            for one in _lines(folder / "corpus.jsonl")
        ]
        return "scifact", documents, [one["text"] for one in _lines(folder / "queries.jsonl")][:QUESTIONS]
    made = texts(SMALL_DOCUMENTS + QUESTIONS, bench.seed)
    documents = [retrieval.Document(id=f"d{n}", text=text) for n, text in enumerate(made[:SMALL_DOCUMENTS])]
    return "made-up words", documents, [text[:60] for text in made[SMALL_DOCUMENTS:]]


def _lines(path: Path) -> list[Json]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file if line.strip()]
