"""The stored embeddings: that each can be found, is what a search expects, and is of the model that asks."""

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from backends.corpus import health_figures as figures
from backends.corpus.collections import COLUMN_TYPE, find_collection
from backends.corpus.indexes import sample_embeddings
from backends.efforts import effort_of
from backends.pgvector import MAX_EF_SEARCH, PgvectorIndex
from backends.types import Embeddings, Precision
from backends.vectors import exact_scores
from ops.health.check import Check, CheckFunction, Fix, FixFunction, Level, Subject
from ops.health.hnsw import ready_index
from ops.measures import SCORE_EPSILON
from retrieval.embedding.base import EmbedderStamp
from retrieval.embedding.batching import Batcher
from retrieval.library import Ragstone

QUERIES = 100
LEAST_QUERIES = 20
FOUND_WARN = 0.95
"""With the usual effort a healthy HNSW finds 99.8 % or more of what it holds (seen: 20,000 of MNIST, and 30,000 of
noise in 128 dimensions, at ef_search 40)."""
FOUND_CRIT = 0.995
"""With the greatest effort it finds all of it: of a hundred, one that is lost is below this."""
EMBEDDINGS_READ = 500_000
"""About a second's reading. Of larger collections so many are drawn, in whole pages."""
NORM_TOLERANCE: dict[Precision, float] = {"half": 1e-3, "single": 1e-5}
"""Rounding to 11 significant bits moves a length of 1 by less than 2^-11, rounding to 24 by less than 2^-24."""


def unjoined_embeddings(subject: Subject) -> Iterable[Check]:
    """Every chunk has its embedding, and the reverse."""
    without_chunk, without_embedding = figures.unjoined(subject.database, subject.state, subject.left_ms)
    yield subject.check(
        "unjoined_embeddings",
        "crit" if without_embedding else "warn" if without_chunk else "ok",
        value=without_embedding + without_chunk,
        unit="chunks",
        threshold="none",
        detail=f"{without_embedding:,} chunks without an embedding, {without_chunk:,} embeddings without a chunk",
        hint="ingest the documents of the former again, restore a backup, or delete the latter: --fix",
    )


def embedding_norms(subject: Subject) -> Iterable[Check]:
    """Under cosine every embedding was brought to length 1: another was written past Ragstone, or is damaged."""
    spec = subject.state.spec
    if spec.metric != "cosine":
        return
    percent = min(100.0, 100.0 * EMBEDDINGS_READ / max(subject.state.chunks, 1))
    found = figures.norm_figures(
        subject.database, subject.state, subject.left_ms, percent=percent, tolerance=NORM_TOLERANCE[spec.precision]
    )
    yield subject.check(
        "zero_embeddings",
        "crit" if found.zero else "ok",
        value=found.zero,
        unit="embeddings",
        threshold="none",
        detail=f"of {found.looked_at:,} looked at; HNSW leaves them out, and they are near to nothing",
        hint="ingest their documents again",
    )
    yield subject.check(
        "embedding_norms",
        "warn" if found.off else "ok",
        value=found.off,
        unit="embeddings",
        threshold=f"none whose length is off 1 by more than {NORM_TOLERANCE[spec.precision]:g}",
        detail=f"of {found.looked_at:,} looked at",
        hint="another model or another program wrote them: ingest their documents again",
    )


def hnsw_self_recall(subject: Subject) -> Iterable[Check]:
    """Search for stored embeddings, drawn anew each time: what comes first must be as near as the embedding itself."""
    index = ready_index(subject)
    if index is None:
        return
    queries = sample_embeddings(subject.database, subject.state, QUERIES, seed=time.time_ns() % (1 << 31))
    usual = effort_of(subject.state.efforts.get(index.name, {}), "all")
    asked = missed = lost = 0
    for query in queries:
        if asked >= LEAST_QUERIES and subject.left_s < subject.budget_s / 2:
            break
        asked += 1
        if not _finds_itself(index, query, usual):
            missed += 1
            lost += not _finds_itself(index, query, MAX_EF_SEARCH)
    if not asked:
        return
    level: Level = "crit" if 1 - lost / asked < FOUND_CRIT else "warn" if 1 - missed / asked < FOUND_WARN else "ok"
    yield subject.check(
        "hnsw_self_recall",
        level,
        backend=index.name,
        value=1 - missed / asked,
        unit="share",
        threshold=f"at least {FOUND_WARN:g}, and with the greatest effort {FOUND_CRIT:g}",
        detail=f"{missed} of {asked} stored embeddings did not find themselves, with the greatest effort {lost}",
        hint=_LOST if level == "crit" else _MISSED,
    )


def embedding_type(subject: Subject) -> Iterable[Check]:
    """The collection's row, its stamp and its table must speak of the same embeddings."""
    state = subject.state
    wanted = f"{COLUMN_TYPE[state.spec.precision]}({state.spec.dimension})"
    found = figures.column_type(subject.database, state, subject.left_ms).split(".")[-1]
    stamped = state.spec.dimension if state.stamp is None else state.stamp["embedder"]["dimension"]
    wrong = found != wanted or stamped != state.spec.dimension
    yield subject.check(
        "embedding_type",
        "crit" if wrong else "ok",
        threshold=wanted,
        detail=f"the table holds {found}" + ("" if state.stamp is None else f", the model gives {stamped} numbers"),
        hint="a table or a row of ragstone was altered by hand: restore a backup of the collection",
    )


def stamp(subject: Subject) -> Iterable[Check]:
    """Whether this process embeds as the collection was embedded. The model is not loaded for it."""
    if subject.state.stamp is None:
        return
    there = EmbedderStamp(**subject.state.stamp["embedder"])
    loaded = vars(subject.rag).get("embedder")  # asking for the property would load the model
    if isinstance(loaded, Batcher):
        fits, here = there.matches(loaded.stamp), loaded.stamp.model
    else:
        here = subject.rag.settings.embedding_model
        fits = there.model in (here, Path(here).name)
    yield subject.check(
        "stamp",
        "ok" if fits else "crit",
        threshold=f"{there.model} of dimension {there.dimension}",
        detail=f"this process embeds with {here}" + ("" if isinstance(loaded, Batcher) else ", by its name"),
        hint=f"set embedding_model to {there.model} as the collection was made, or ingest into a new collection",
    )


def _finds_itself(index: PgvectorIndex, query: Embeddings, effort: int | None) -> bool:
    """HNSW alone is asked: a whole search would compare everything where that comes back short."""
    own_score = float(exact_scores(query, query[None], index.spec)[0])
    least = own_score - SCORE_EPSILON * max(1.0, abs(own_score))
    return any(chunk.score >= least for chunk in index.nearest(query, 1, None, effort))


def _delete_unjoined(rag: Ragstone, check: Check) -> Fix | None:
    assert check.collection is not None
    state = find_collection(rag.database, check.collection)
    without_chunk, _ = figures.unjoined(rag.database, state, 60_000)
    if not without_chunk:
        return None
    return Fix(
        description=f"delete {without_chunk:,} embeddings of {state.name} that belong to no chunk",
        run=partial(figures.delete_unjoined, rag.database, state),
    )


_MISSED = "the effort is too low: `ragstone recall tune`, or raise RAGSTONE_EF_SEARCH"
_LOST = (
    "VACUUM mends the graph (pgvector loses recall under many replacements until then), REINDEX INDEX CONCURRENTLY "
    "makes it anew: --fix does both. Many near-duplicates cut any HNSW to pieces: drop them, or `ragstone move`"
)
CHECKS: tuple[CheckFunction, ...] = (unjoined_embeddings, embedding_norms, hnsw_self_recall, embedding_type, stamp)
FIXES: dict[str, FixFunction] = {"unjoined_embeddings": _delete_unjoined}
