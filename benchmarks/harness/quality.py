"""What the default model's fast arithmetic costs in nDCG@10, beside sentence-transformers' encode in single precision.

Real collections alone can tell: RAGSTONE_BENCH_DATA names a folder with `scifact/` and `cranfield/`, each of which has
`corpus.jsonl`, `queries.jsonl` and `qrels.tsv` as in BEIR. Every document is embedded, as one passage of "title text"
cut to the model's length, and ranked exactly.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.harness.datasets import FOLDER_VARIABLE
from benchmarks.harness.plan import Bench
from benchmarks.harness.results import figure
from benchmarks.peers.protocol import Embeddings
from ops.judgements import Judgements, read_judgements, read_queries
from ops.measures import ndcg, trec_order
from retrieval.embedding.base import Kind
from retrieval.embedding.batching import Batcher
from retrieval.embedding.environment import prepare_environment

Json = dict[str, Any]
Embed = Callable[[list[str], Kind], Embeddings]
SMALL, FULL = ("cranfield",), ("scifact", "cranfield")
TOP_K = 10


@dataclass(frozen=True)
class Collection:
    """Documents by id, judged queries by id, and their grades."""

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    judgements: Judgements


def quality(bench: Bench) -> Iterator[Json]:
    """The difference on each collection that is at hand; one that is not is named as skipped."""
    named = os.environ.get(FOLDER_VARIABLE)
    for name in FULL if bench.sizes.name == "full" else SMALL:
        if named is None or not (Path(named) / name / "corpus.jsonl").exists():
            yield {"what": "skipped", "script": f"nDCG@10 on {name}", "why": f"it needs {name}/ in {FOLDER_VARIABLE}"}
        else:
            yield _difference(collection(Path(named) / name))


def collection(folder: Path) -> Collection:
    """Read a folder; documents without text are left out, they cannot be found."""
    judgements = read_judgements(folder / "qrels.tsv")
    judged = {query for query, grades in judgements.items() if any(grade > 0 for grade in grades.values())}
    queries = {id_: text for id_, text in read_queries(folder / "queries.jsonl").items() if id_ in judged}
    with (folder / "corpus.jsonl").open(encoding="utf-8", newline="\n") as file:
        read = [json.loads(line) for line in file if line.strip()]
    documents = {one["_id"]: f"{one['title']} {one['text']}".strip() for one in read if one["text"].strip()}
    return Collection(folder.name, documents, queries, judgements)


def mean_ndcg(found: Collection, embed: Embed) -> float:
    """The mean over the queries of nDCG@10, as trec_eval counts it."""
    documents, queries = list(found.documents), list(found.queries)
    passages = embed(list(found.documents.values()), "passage")
    scores = embed(list(found.queries.values()), "query") @ passages.T
    return fmean(
        ndcg(trec_order(dict(zip(documents, row.tolist(), strict=True))), found.judgements[query], TOP_K)
        for query, row in zip(queries, scores, strict=True)
    )


def _difference(found: Collection) -> Json:
    """Of the default model's arithmetic on this machine, without a sign: a gain is as much by chance as a loss."""
    prepare_environment()
    from retrieval.embedding.local import DEFAULT_MODEL, open_local

    model = open_local(DEFAULT_MODEL, "cpu")
    with closing(Batcher(model, batch_tokens=8_192, queue_texts=4_096, cache_queries=0)) as batcher:
        fast, fast_s = _timed(found, batcher.embed)
    single, single_s = _timed(found, _encode())
    where = f"{found.name}, {len(found.documents):,} documents, {len(found.queries):,} queries"
    more = {"numerics": model.stamp.numerics, "ndcg": round(fast, 5), "ndcg_single": round(single, 5)}
    took = {"embedding_s": round(fast_s, 1), "embedding_single_s": round(single_s, 1)}
    return figure("embedding.ndcg_from_single", round(abs(fast - single), 5), where, **more, **took)


def _timed(found: Collection, embed: Embed) -> tuple[float, float]:
    started_s = time.perf_counter()
    return mean_ndcg(found, embed), time.perf_counter() - started_s


def _encode() -> Embed:
    """Encode as sentence-transformers does by default, which is in float32."""
    from sentence_transformers import SentenceTransformer

    from retrieval.embedding.local import default_folder

    model = SentenceTransformer(str(default_folder()), device="cpu", local_files_only=True)

    def embed(texts: list[str], kind: Kind) -> Embeddings:
        del kind  # the model has no prompts
        found: Embeddings = model.encode(texts, show_progress_bar=False, normalize_embeddings=True)
        return found

    return embed
