"""Evaluates retrieval against relevance judgements, counting as trec_eval does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

from backends.errors import InvalidInput
from ops.judgements import Judgements
from ops.measures import judged_recall, ndcg, reciprocal_rank, trec_order
from retrieval.documents import Hit

DOCUMENTS_PER_QUERY = 100
FIRST_TOP_K = 200

Search = Callable[[str, int], Sequence[Hit]]
"""A query's text and top_k to hits, best first. Called from several threads at once."""

MEASURES: dict[str, Callable[[Sequence[str], Mapping[str, int]], float]] = {
    "nDCG@10": lambda ranking, judged: ndcg(ranking, judged, 10),
    "recall@10": lambda ranking, judged: judged_recall(ranking, judged, 10),
    "recall@100": lambda ranking, judged: judged_recall(ranking, judged, 100),
    "MRR@10": lambda ranking, judged: reciprocal_rank(ranking, judged, 10),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The mean of each measure over the queries, and each query's own.

    `without_text` counts judged queries that the query file lacks: they are in no mean. `cut_short` counts
    queries for which the most hits that may be asked for held fewer than 100 distinct documents.
    """

    queries: int
    means: dict[str, float]
    per_query: dict[str, dict[str, float]]
    without_text: int
    cut_short: int


def evaluate(
    search: Search,
    queries: Mapping[str, str],
    judgements: Judgements,
    *,
    max_top_k: int,
    threads: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run every query that has a judgement above 0, and measure its ranking of documents.

    `progress` gets how many queries are done, and of how many. Raises InvalidInput where no judged query has a
    text, and what `search` raises.
    """
    judged = {id_: grades for id_, grades in judgements.items() if any(g > 0 for g in grades.values())}
    to_run = {query_id: queries[query_id] for query_id in judged if query_id in queries}
    if not to_run:
        raise InvalidInput("qrels", _no_queries(judged))
    rankings: dict[str, tuple[list[str], bool]] = {}
    with _threads(threads) as pool:
        found = pool.map(lambda text: rank_documents(search, text, max_top_k), to_run.values())
        for query_id, ranking in zip(to_run, found, strict=True):
            rankings[query_id] = ranking
            if progress:
                progress(len(rankings), len(to_run))
    return _measure(rankings, judged)


def rank_documents(search: Search, text: str, max_top_k: int) -> tuple[list[str], bool]:
    """Return up to 100 distinct document ids, best first, each by its best chunk, and whether that is all.

    Asks for more hits until there are 100 documents or no more hits; False where `max_top_k` ended it.
    """
    top_k = min(FIRST_TOP_K, max_top_k)
    while True:
        hits = search(text, top_k)
        best: dict[str, float] = {}
        for hit in hits:
            best.setdefault(hit.document_id, hit.score)
        complete = len(best) >= DOCUMENTS_PER_QUERY or len(hits) < top_k
        if complete or top_k == max_top_k:
            return trec_order(best)[:DOCUMENTS_PER_QUERY], complete
        top_k = min(2 * top_k, max_top_k)


def _measure(rankings: Mapping[str, tuple[list[str], bool]], judged: Judgements) -> Evaluation:
    per_query = {
        query_id: {name: measure(ranking, judged[query_id]) for name, measure in MEASURES.items()}
        for query_id, (ranking, _) in rankings.items()
    }
    return Evaluation(
        queries=len(per_query),
        means={name: fmean(row[name] for row in per_query.values()) for name in MEASURES},
        per_query=per_query,
        without_text=len(judged) - len(rankings),
        cut_short=sum(not complete for _, complete in rankings.values()),
    )


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that on an error or Ctrl-C drops what has not begun, in place of running it to its end."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="eval")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _no_queries(judged: Mapping[str, object]) -> str:
    if not judged:
        return "no judgement is above 0; a query counts where at least one is"
    return f"none of the {len(judged)} judged queries is in the query file, for example {next(iter(judged))!r}"
