"""Whether an index holds what the corpus holds, and finds it."""

import time
from collections.abc import Iterator

import numpy as np

from backends.attached import AttachedIndex
from backends.corpus.following import sequence_of
from backends.corpus.health_indexes import behind, counts
from backends.corpus.indexes import find_index, sample_embeddings
from backends.errors import FilterTooExpensive, IndexUnavailable
from backends.hits import Hit
from backends.searching import Searcher
from backends.vectors import exact_scores
from ops.health.check import Check, CheckFunction, Fix, FixFunction, Level
from ops.health.looking import OUTSIDE, Look, of_each
from ops.health.mending import delete_orphans, rebuild_beside
from ops.measures import SCORE_EPSILON, recall_at_k
from ops.moving import verification
from retrieval.library import Ragstone
from retrieval.placement import recall_target_of

COUNT_TRIES = 3
COUNT_PAUSE_S = 1.0
"""Pinecone's counts lag behind its queries by seconds."""
IDS_PER_S = {"pgvector": 300_000, "faiss": 300_000, "weaviate": 10_000, "pinecone": 1_000}
"""Ids that are compared in a second, about: Pinecone lists 100 at a call, Weaviate 4,096. A longer budget compares
more; above it the counts and the stored vectors that find themselves have to do."""
KEEP_UP_S = 5.0
KEEP_UP_LOOK_S = 0.05
SELF_QUERIES = 200
LEAST_QUERIES = 20
SELF_RECALL = 0.995
"""One of 200 stored vectors that does not find itself is what an approximate index may do; two are a broken graph,
a wrong metric or another's vectors."""
RECALL_QUERIES = 30
RECALL_MARGIN = 0.05
"""What 30 queries may be off by chance: below the target is a warning, below it by more is critical."""
RECALL_CHUNKS = 1_000_000
"""Above it an exact search takes seconds: there recall is measured in the background, on what users ask."""


@of_each("pgvector", *OUTSIDE)
def index_count(look: Look) -> Iterator[Check]:
    """Whether an index holds as many chunks as the corpus had at the number that the index has applied."""
    surplus = 0
    for turn in range(COUNT_TRIES):
        time.sleep(COUNT_PAUSE_S * (turn > 0))
        surplus, held = _table_surplus(look) if look.row.backend == "pgvector" else _surplus(look)
        if not surplus:
            break
    yield look.says(
        "ok" if not surplus else "warn" if surplus > 0 else "crit",
        value=float(surplus),
        unit="chunks",
        threshold="0",
        detail=f"holds {held:,} chunks"
        + ("" if look.state.chunks <= _comparable(look) else "; too many to compare their ids within the budget"),
        hint="see index_ids and index_orphans; `ragstone health --fix` builds the index anew",
    )


def _surplus(look: Look) -> tuple[int, int]:
    """Return how many chunks an index has too many, or too few (below 0), and how many it has."""
    with look.as_searched() as attached:
        stats = attached.index.stats()
    if not stats.ready:
        raise IndexUnavailable(f"the {look.row.backend} index of {look.state.name!r} is not whole, or not there")
    lacks = behind(look.subject.database, look.state, stats.applied)
    difference = stats.count - lacks.total_chunks
    # What the later changes hold may be there already or not.
    return int(np.sign(difference)) * max(abs(difference) - lacks.chunks, 0), stats.count


def _table_surplus(look: Look) -> tuple[int, int]:
    """HNSW holds what its table holds: embeddings, against texts and against the counter that placement goes by."""
    found = counts(look.subject.database, look.state, look.subject.left_ms)
    return max(found.embeddings - found.chunks, found.embeddings - found.counter, key=abs), found.embeddings


@of_each("pgvector", *OUTSIDE)
def index_ids(look: Look) -> Iterator[Check]:
    """Whether an index has every chunk of the corpus, and (as `index_orphans`) none besides."""
    if look.state.chunks > _comparable(look):
        return
    with look.as_searched() as attached:
        _, _, missing, orphans = verification.parity(look.subject.database, attached, lambda: _keep_up(look, attached))
    yield look.says(
        "crit" if missing else "ok",
        value=float(missing),
        unit="chunks",
        threshold="0",
        detail=f"{missing} chunks are not in the index" if missing else "",
        hint="no search finds them but an exact one: `ragstone health --fix` builds the index anew",
    )
    yield look.says(
        "warn" if orphans else "ok",
        name="index_orphans",
        value=float(orphans),
        unit="chunks",
        threshold="0",
        detail=f"{orphans} ids are not the corpus's" if orphans else "",
        hint="they are never returned, but cost room and candidates: `ragstone health --fix` deletes them",
    )


def _comparable(look: Look) -> float:
    return IDS_PER_S[look.row.backend] * look.subject.budget_s / 2


def _keep_up(look: Look, attached: AttachedIndex) -> None:
    """Return when the index has applied what the corpus has now."""
    capabilities = attached.index.capabilities
    if capabilities.in_corpus:
        return
    if not capabilities.shared:
        attached.follow(may_build=False)
        return
    wanted = sequence_of(look.subject.database, look.state)
    give_up_s = time.monotonic() + min(KEEP_UP_S, look.subject.left_s)
    while (row := find_index(look.subject.database, look.row.id)) is None or (row.applied or 0) < wanted:
        if time.monotonic() > give_up_s:
            raise IndexUnavailable(
                f"the {look.row.backend} index of {look.state.name!r} has not applied what the corpus has, so that "
                "their ids cannot be compared: see index_behind"
            )
        time.sleep(KEEP_UP_LOOK_S)


@of_each(*OUTSIDE)
def index_self_recall(look: Look) -> Iterator[Check]:
    """The share of stored vectors that find themselves, or one as near: no exact search is needed for it."""
    stored = sample_embeddings(look.subject.database, look.subject.state, SELF_QUERIES, seed=int(time.time()))
    if not len(stored):
        return
    found = 0
    asked = 0
    with look.as_searched() as attached:
        searcher = _searcher(look, attached)
        for query in stored:
            if asked >= LEAST_QUERIES and look.nearly_over:
                break
            own = float(exact_scores(query, query[None], look.state.spec)[0])
            best = searcher.search(query, 1).hits
            found += bool(best) and best[0].score >= own - SCORE_EPSILON
            asked += 1
    share = found / asked
    yield look.says(
        "ok" if asked - found <= (1 - SELF_RECALL) * SELF_QUERIES else "crit",
        value=round(share, 4),
        threshold=f"at least {SELF_RECALL}",
        detail=f"{asked - found} of {asked} stored vectors do not find themselves",
        hint="the index is broken or holds other vectors: `ragstone health --fix` builds it anew",
    )


@of_each("faiss")
def index_recall(look: Look) -> Iterator[Check]:
    """Recall@10 of the copy that this process searches, against an exact search, on stored vectors moved a little."""
    state = look.subject.state
    if not verification.TOP_K < state.chunks <= RECALL_CHUNKS:
        return
    stored = sample_embeddings(look.subject.database, state, RECALL_QUERIES, seed=int(time.time()))
    recalls: list[float] = []
    with look.as_searched() as attached:
        searcher = _searcher(look, attached)
        for query in verification.drawn_queries(stored, state.spec):
            if look.nearly_over:
                break
            try:
                true = searcher.search(query, verification.TOP_K, exact=True).hits
            except FilterTooExpensive:  # those that were measured count
                break
            recalls.append(_recall(searcher.search(query, verification.TOP_K).hits, true))
    if len(recalls) < min(LEAST_QUERIES, len(stored)):
        raise IndexUnavailable(f"only {len(recalls)} exact searches ended within {look.subject.budget_s:g} s")
    recall, target = float(np.mean(recalls)), recall_target_of(state, look.subject.rag.settings)
    level: Level = "ok" if recall >= target else "warn" if recall >= target - RECALL_MARGIN else "crit"
    yield look.says(
        level,
        value=round(recall, 4),
        threshold=f"at least {target:g}",
        detail=f"recall@{verification.TOP_K} of {len(recalls)} queries",
        hint=f"`ragstone recall measure {state.name}`, then `ragstone recall tune {state.name} --target {target:g}`",
    )


def _recall(found: list[Hit], true: list[Hit]) -> float:
    ids, scores = [chunk.id for chunk in found], [chunk.score for chunk in found]
    return recall_at_k(ids, scores, [chunk.score for chunk in true], verification.TOP_K)


def _searcher(look: Look, attached: AttachedIndex) -> Searcher:
    """What searches as users do, but never exactly in the place of an index that is away."""
    return Searcher(look.subject.database, look.state, attached, look.subject.left_ms, exact_fallback_chunks=0)


def mend_count(rag: Ragstone, check: Check) -> Fix | None:
    """Delete what an index has too many, or build anew one that has too few."""
    return delete_orphans(rag, check) if (check.value or 0) > 0 else rebuild_beside(rag, check)


CHECKS: tuple[CheckFunction, ...] = (index_count, index_ids, index_self_recall, index_recall)
FIXES: dict[str, FixFunction] = {
    "index_count": mend_count,
    "index_ids": rebuild_beside,
    "index_orphans": delete_orphans,
    "index_self_recall": rebuild_beside,
}
