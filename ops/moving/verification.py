"""What an index must show before it serves: it holds what the corpus holds, and finds what an exact search finds."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from backends.attached import AttachedIndex
from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.database import Database
from backends.corpus.indexes import chunk_ids, sample_embeddings
from backends.searching import Searcher
from backends.types import Embeddings, Ids, IndexSpec
from backends.vectors import prepare
from ops.measures import recall_at_k

QUERIES = 200
LEAST_QUERIES = 20
RECALL_BUDGET_S = 60.0
TOP_K = 10
STEP = 0.1
PARITY_TRIES = 3
KEEP_UP_S = 0.25
EXACT_BUDGET_MS = 120_000

KeepUp = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found. `missing` chunks are in the corpus alone, `foreign` ones in the index alone.

    `recall` is the mean recall@10 of `queries` made of stored embeddings drawn at random, each moved a tenth of the
    way to another: an index finds what it has stored more easily than what users ask. None where the collection is
    too small to have a recall.
    """

    chunks: int
    indexed: int
    missing: int
    foreign: int
    recall: float | None
    recall_target: float
    queries: int

    @property
    def problem(self) -> str | None:
        """Why the index may not serve; None where it may."""
        if self.missing or self.foreign:
            return (
                f"the index does not hold what the corpus holds: {self.missing} chunks are missing, {self.foreign} are "
                "not the corpus's"
            )
        if self.recall is not None and self.recall < self.recall_target:
            return (
                f"recall@{TOP_K} is {self.recall:.3f} on {self.queries} queries, below the target "
                f"{self.recall_target:g}: raise the search effort (ef_search), or lower the collection's recall_target"
            )
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return what is kept with the move."""
        return asdict(self)


def verify(
    database: Database, attached: AttachedIndex, recall_target: float, keep_up: KeepUp, seed: int = 0
) -> Verification:
    """Compare an index with the corpus, while both go on.

    `keep_up` is called often, and returns when the index has applied what the corpus had when it was called.
    """
    collection = attached.collection
    chunks, indexed, missing, foreign = parity(database, attached, keep_up)
    wrong = missing or foreign
    recalls = [] if wrong else _recalls(database, collection, attached, keep_up, seed)
    return Verification(
        chunks=chunks,
        indexed=indexed,
        missing=missing,
        foreign=foreign,
        recall=float(np.mean(recalls)) if recalls else None,
        recall_target=recall_target,
        queries=len(recalls),
    )


def parity(database: Database, attached: AttachedIndex, keep_up: KeepUp) -> tuple[int, int, int, int]:
    """Count chunks, indexed ids, missing and foreign ones; a difference that goes away was a write in between."""
    foreign: Ids | None = None
    for _ in range(PARITY_TRIES):
        keep_up()
        before = _corpus_ids(database, attached.collection)
        keep_up()  # all of `before` is in the index now, but for what was deleted meanwhile
        found = _index_ids(attached)
        after = _corpus_ids(database, attached.collection)
        missing = np.setdiff1d(np.intersect1d(before, after), found)
        strange = np.setdiff1d(found, np.union1d(before, after))
        # Written and deleted again between the two looks is strange once: by the next look the delete is applied.
        foreign = strange if foreign is None else np.intersect1d(foreign, strange)
        if not len(missing) and not len(foreign):
            break
    assert foreign is not None
    return len(after), len(found), len(missing), len(foreign)


def _corpus_ids(database: Database, collection: CollectionState) -> Ids:
    with database.dedicated() as connection:
        return chunk_ids(connection, collection)


def _index_ids(attached: AttachedIndex) -> Ids:
    parts = [np.empty(0, np.int64), *attached.index.ids()]
    found = np.sort(np.concatenate(parts))
    distinct: Ids = found[np.concatenate([[True], np.diff(found) > 0])] if len(found) else found
    return distinct


def _recalls(
    database: Database, collection: CollectionState, attached: AttachedIndex, keep_up: KeepUp, seed: int
) -> list[float]:
    """Return the recall@10 of each query that fits into the budget of seconds, of some at least."""
    state = find_collection(database, collection.name)
    if state.chunks <= TOP_K:
        return []
    searcher = Searcher(database, collection, attached, EXACT_BUDGET_MS, exact_fallback_chunks=0)
    deadline_s = time.monotonic() + RECALL_BUDGET_S
    kept_up_s = 0.0
    recalls: list[float] = []
    for query in drawn_queries(sample_embeddings(database, state, QUERIES, seed), collection.spec):
        if time.monotonic() > deadline_s and len(recalls) >= LEAST_QUERIES:
            break
        if time.monotonic() - kept_up_s > KEEP_UP_S:
            keep_up()
            kept_up_s = time.monotonic()
        recalls.append(_recall(searcher, query))
    return recalls


def drawn_queries(stored: Embeddings, spec: IndexSpec) -> Embeddings:
    """Make queries of stored embeddings, float32 [n, d]: each is moved a tenth of the way to the next."""
    moved = (1 - STEP) * stored + STEP * np.roll(stored, 1, axis=0)
    usable = moved[np.abs(moved).max(axis=1) > 0] if len(moved) else moved
    return prepare(usable, spec)


def _recall(searcher: Searcher, query: Embeddings) -> float:
    found = searcher.search(query, TOP_K).hits
    true = searcher.search(query, TOP_K, exact=True).hits
    ids, scores = [chunk.id for chunk in found], [chunk.score for chunk in found]
    return recall_at_k(ids, scores, [chunk.score for chunk in true], TOP_K)
