"""pgvector's HNSW, and the index on the metadata beside it: there, whole, in memory, and used."""

import re
from collections.abc import Iterable
from math import ceil
from typing import Any

from backends.corpus import health_figures as figures
from backends.corpus.collections import CollectionState, identity
from backends.corpus.database import Database
from backends.corpus.explaining import ExplainingDatabase
from backends.corpus.health_figures import BuildFigures, IndexFigures
from backends.corpus.indexes import sample_embeddings
from backends.filters import Filter, parse
from backends.pgvector import M, PgvectorIndex
from backends.types import Embeddings, IndexSpec
from ops.health.check import Check, CheckFunction, Level, Subject, level_above, mib
from ops.progress import duration
from retrieval.library import Ragstone
from retrieval.placement import builds_hnsw

TOP_K = 10
DRAWN = 50
"""Whole pages are drawn: of very few embeddings, in a small table there may be none."""
BACKEND = PgvectorIndex.name
LEFTOVER = re.compile("_cc(new|old)[0-9]*$")
"""How the names end of what an interrupted REINDEX CONCURRENTLY leaves behind."""
PAGE_BYTES = 8_192
USABLE_BYTES = PAGE_BYTES - 24 - 8
"""Less the page's header and pgvector's own trailer."""
ELEMENT_BYTES = 72
LINE_POINTER_BYTES = 4
TID_BYTES = 6
"""How pgvector lays out its pages: https://github.com/pgvector/pgvector/blob/master/src/hnsw.h"""
GRAPH_BYTES = 708
"""What an element takes in memory while the graph is built, beside its embedding, as pgvector's notice "no longer
fits" tells at m = 16: 705 to 712 bytes at dimensions 32, 384 and 768."""
CACHED_WARN = 0.99
LEAST_PAGES = 1_000
"""Pages asked for, below which a share of hits says nothing."""
BLOAT_WARN = 1.5
BLOAT_CRIT = 3.0
LEAST_BLOAT_BYTES = 100 * PAGE_BYTES
"""Less than that is soon read, whatever is in it."""


def hnsw_ready(subject: Subject) -> Iterable[Check]:
    """Without it, every search compares every embedding."""
    hnsw = _hnsw(subject)
    wanted = subject.state.backend == BACKEND and builds_hnsw(subject.state, subject.rag.settings)
    if hnsw is None and not wanted:
        return
    level, detail = _readiness(subject, hnsw)
    yield subject.check(
        "hnsw_ready",
        level,
        backend=BACKEND,
        threshold=f"valid and ready from {subject.rag.settings.index_min_chunks:,} chunks on",
        detail=detail,
        hint="see build_progress" if level == "warn" else "build it: --fix, or leave it to `ragstone serve`",
    )


def filter_index_ready(subject: Subject) -> Iterable[Check]:
    """Without the index on the metadata, every filter reads every chunk. It is built before HNSW."""
    gin = next((index for index in _indexes(subject) if index.method == "gin"), None)
    moved = subject.state.backend != BACKEND
    if gin is None and not moved and _hnsw(subject) is None and not builds_hnsw(subject.state, subject.rag.settings):
        return
    yield subject.check(
        "filter_index_ready",
        "ok" if gin is not None and gin.whole else "crit",
        backend=BACKEND,
        threshold="valid and ready",
        detail="there is none" if gin is None else "valid and ready" if gin.whole else "it is invalid",
        hint="build it: --fix",
    )


def leftover_indexes(subject: Subject) -> Iterable[Check]:
    """What an interrupted REINDEX CONCURRENTLY leaves is never searched, and costs every write."""
    found = [index.name for index in _indexes(subject) if not index.whole and LEFTOVER.search(index.name)]
    if found and _build(subject) is not None:
        found = []  # it is what is being built
    yield subject.check(
        "leftover_indexes",
        "warn" if found else "ok",
        backend=BACKEND,
        value=len(found),
        unit="indexes",
        threshold="none",
        detail=", ".join(found),
        hint="DROP INDEX CONCURRENTLY ragstone.<name>, or --fix",
    )


def build_progress(subject: Subject) -> Iterable[Check]:
    """How far a build is; a finding where it waits for somebody's transaction, which may be for ever."""
    build = _build(subject)
    if build is None:
        return
    waits = build.waits_for is not None
    yield subject.check(
        "build_progress",
        "warn" if waits else "ok",
        backend=BACKEND,
        value=build.share,
        unit="share",
        threshold="waiting for nobody",
        detail=f"waits for {build.waits_for}" if waits else _going(build),
        hint="the build goes on when that transaction ends: SELECT pg_terminate_backend(process)",
    )


def build_memory(subject: Subject) -> Iterable[Check]:
    """A graph that outgrows maintenance_work_mem is built on, several times slower, on disk."""
    if not builds_hnsw(subject.state, subject.rag.settings) or subject.state.backend != BACKEND:
        return
    server = figures.server_figures(subject.database, subject.left_ms)
    needed = graph_bytes(subject.state.chunks, subject.state.spec)
    share = needed / server.maintenance_bytes
    yield subject.check(
        "build_memory",
        level_above(share, 1),
        backend=BACKEND,
        value=share,
        unit="share",
        threshold="at most 1: the graph fits into maintenance_work_mem",
        detail=f"{mib(needed)} to build HNSW; maintenance_work_mem is {mib(server.maintenance_bytes)}",
        hint=f"set maintenance_work_mem to {ceil(1.1 * needed / (1 << 20))}MB before the next build",
    )


def index_cached(subject: Subject) -> Iterable[Check]:
    """How often the pages that searches ask for are in PostgreSQL's memory, since its statistics began."""
    hnsw = _hnsw(subject)
    if hnsw is None:
        return
    asked = hnsw.hits + hnsw.reads
    share = hnsw.hits / asked if asked >= LEAST_PAGES else 1.0
    yield subject.check(
        "index_cached",
        "ok" if share >= CACHED_WARN else "warn",
        backend=BACKEND,
        value=share,
        unit="share",
        threshold=f"at least {CACHED_WARN:g}",
        detail=f"{hnsw.reads:,} of {asked:,} pages had to be read; HNSW takes {mib(hnsw.size_bytes)}",
        hint="raise shared_buffers, or move the collection: `ragstone move plan`; after a restart it passes with use",
    )


def index_bloat(subject: Subject) -> Iterable[Check]:
    """What HNSW takes, against what it would take if it were built from the rows that are there."""
    hnsw = _hnsw(subject)
    if hnsw is None or not hnsw.whole:
        return
    expected = expected_bytes(subject.state.chunks, subject.state.spec)
    ratio = hnsw.size_bytes / expected if hnsw.size_bytes >= LEAST_BLOAT_BYTES else 1.0
    yield subject.check(
        "index_bloat",
        level_above(ratio, BLOAT_WARN, BLOAT_CRIT),
        backend=BACKEND,
        value=ratio,
        unit="times",
        threshold=f"at most {BLOAT_WARN:g} times what it would take anew",
        detail=f"{mib(hnsw.size_bytes)}, and {mib(expected)} anew",
        hint="REINDEX INDEX CONCURRENTLY, or --fix: it stays searchable meanwhile, and needs room for both",
    )


def planner_uses_index(subject: Subject) -> Iterable[Check]:
    """Ask the planner about a search as searches are really made, with and without a filter."""
    hnsw = _hnsw(subject)
    queries = sample_embeddings(subject.database, subject.state, DRAWN, seed=0)
    if ready_index(subject) is None or hnsw is None or not len(queries):
        return
    filters = {"a search": None, "a filtered search": parse({"ragstone": {"$exists": True}})}
    without = [what for what, filter in filters.items() if hnsw.name not in _scanned(subject, queries[0], filter)]
    yield subject.check(
        "planner_uses_index",
        "crit" if without else "ok",
        backend=BACKEND,
        value=len(without),
        unit="kinds of search",
        threshold="every search scans HNSW",
        detail=f"{' and '.join(without)} would not use it" if without else "",
        hint="it was not built by Ragstone, or for another metric: --fix builds it anew",
    )


def ready_index(subject: Subject) -> PgvectorIndex | None:
    """Return HNSW where it serves and is ready, as it is now."""
    if subject.state.backend != BACKEND:
        return None
    index = index_of(subject.rag, subject.state)
    return index if index.ready else None


def index_of(rag: Ragstone, state: CollectionState, database: Database | None = None) -> PgvectorIndex:
    """Return HNSW as searches use it, whatever serves; nothing else of the collection is opened or followed."""
    settings = rag.settings
    owner = identity(rag.database, state)
    return PgvectorIndex(database or rag.database, state, owner, settings.ef_search, settings.statement_budget_ms)


def expected_bytes(rows: int, spec: IndexSpec) -> int:
    """Return what HNSW takes on disk, built from so many rows: whole elements on whole pages."""
    element = _aligned(ELEMENT_BYTES + _value_bytes(spec)) + LINE_POINTER_BYTES
    neighbours = _aligned(4 + 2 * M * TID_BYTES) + LINE_POINTER_BYTES
    together = USABLE_BYTES // (element + neighbours)
    pages = ceil(rows / together) if together else 2 * rows  # the neighbours begin a page, which holds nothing more
    return PAGE_BYTES * (1 + pages)


def graph_bytes(rows: int, spec: IndexSpec) -> int:
    """Return what the graph of so many rows takes in memory while it is built."""
    return rows * (GRAPH_BYTES + _value_bytes(spec))


def _value_bytes(spec: IndexSpec) -> int:
    return 8 + spec.dimension * (2 if spec.precision == "half" else 4)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // 8) * 8


def _readiness(subject: Subject, hnsw: IndexFigures | None) -> tuple[Level, str]:
    if hnsw is not None and hnsw.whole:
        return "ok", "valid and ready"
    if _build(subject) is not None:
        return "warn", "it is being built; until then searches compare every embedding"
    if hnsw is None:
        return "crit", "there is none: searches compare every embedding"
    return "crit", "it is invalid: its build was interrupted, and searches compare every embedding"


def _going(build: BuildFigures) -> str:
    if not 0 < build.share < 1:
        return build.phase
    left_s = build.running_s * (1 - build.share) / build.share
    return f"{build.phase}, {build.share:.0%} done, about {duration(left_s)} left of this phase"


def _scanned(subject: Subject, query: Embeddings, filter: Filter | None) -> set[str]:
    """Return the names of the indexes that PostgreSQL would use for a search."""
    explaining = ExplainingDatabase(subject.database)
    index_of(subject.rag, subject.state, explaining).nearest(query, TOP_K, filter)
    return _indexes_in(explaining.plans[-1][0]["Plan"])


def _indexes_in(plan: dict[str, Any]) -> set[str]:
    found = {plan["Index Name"]} if "Index Name" in plan else set()
    return found.union(*(_indexes_in(part) for part in plan.get("Plans", ())))


def _indexes(subject: Subject) -> list[IndexFigures]:
    return figures.index_figures(subject.database, subject.state, subject.left_ms)


def _hnsw(subject: Subject) -> IndexFigures | None:
    found = (index for index in _indexes(subject) if index.method == "hnsw" and not LEFTOVER.search(index.name))
    return next(found, None)


def _build(subject: Subject) -> BuildFigures | None:
    return figures.build_figures(subject.database, subject.state, subject.left_ms)


CHECKS: tuple[CheckFunction, ...] = (
    hnsw_ready,
    filter_index_ready,
    leftover_indexes,
    build_progress,
    build_memory,
    index_cached,
    index_bloat,
    planner_uses_index,
)
