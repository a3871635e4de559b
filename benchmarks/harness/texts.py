"""Questions in words: through the library by stage, and what their embedding costs and keeps beside the usual way."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import retrieval
from benchmarks.harness.datasets import FOLDER_VARIABLE
from benchmarks.harness.matrix import shares
from benchmarks.harness.plan import Bench
from benchmarks.harness.quality import quality
from benchmarks.harness.results import figure
from benchmarks.harness.rounds import spread
from benchmarks.harness.synthetic import texts
from ops.measures import percentiles
from retrieval.config import load

Json = dict[str, Any]
SMALL_DOCUMENTS = 300
QUESTIONS = 100
TOP_K = 10
EMBEDDING = {
    "full": ("--rounds", "7"),
    "small": ("--rounds", "3", "--queries", "60", "--passages", "64"),
    "tiny": ("--rounds", "1", "--queries", "20", "--passages", "64"),
}
FIGURES = {
    "ratio: single query p50 to encode": "embedding.query_p50_over_encode",
    "ratio: passages of 120 tokens/s to encode": "embedding.passages_over_encode",
    "ratio: concurrent queries/s to encode": "embedding.callers_over_encode",
    "ratio: CPU time of a query to encode": "embedding.query_cpu_over_encode",
    "ratio: CPU time of a passage_120 to encode": "embedding.passage_cpu_over_encode",
}
EMBEDDING_WITHIN_S = 3_600
TAIL_CHARACTERS = 600


def text_queries(bench: Bench) -> Iterator[Json]:
    """All that is measured about texts, one after the other."""
    yield from _stages(bench)
    yield from _embedding(bench)
    yield from quality(bench)


def _embedding(bench: Bench) -> Iterator[Json]:
    """`benchmarks.batcher` in a process of its own, since threads of a model that ran before would be in its way."""
    given = EMBEDDING[bench.sizes.name]
    command = [sys.executable, "-m", "benchmarks.batcher", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=EMBEDDING_WITHIN_S, check=False)  # noqa: S603
    if done.returncode:
        bench.failures.append(f"benchmarks.batcher failed: {done.stderr[-TAIL_CHARACTERS:].strip()}")
        return
    found = [json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")]
    yield from ({"what": "script", "script": "batcher", "found": one} for one in found)
    for one in found:
        if name := FIGURES.get(one.get("what", "")):
            where = f"benchmarks.batcher {' '.join(given)}"
            yield figure(name, one["median"], where, lowest=one["lowest"], highest=one["highest"])
    yield from shares(found)


def _stages(bench: Bench) -> Iterator[Json]:
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
