"""What the service needs to answer: connections, disk, searches that are whole, efforts that make sense."""

import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from backends.corpus import health_figures as figures
from backends.corpus.collections import find_collection
from backends.corpus.indexes import sample_embeddings
from backends.efforts import BANDS
from backends.errors import CorpusUnavailable, FilterTooExpensive, InvalidSettings
from backends.filters import Filter, parse
from backends.searching import Searcher
from backends.types import Embeddings
from ops.health.check import Check, CheckFunction, Level, Subject, level_above, mib
from ops.health.looking import Look
from ops.recall.watching import Standing, standings
from retrieval.placement import index_folder

TOP_K = 10
"""What searches ask for unless told otherwise."""
FILTERED_SEARCHES = 5
CHUNKS_DRAWN = 50
PAGES_DRAWN = 20
COUNT_MS = 2_000
"""Counting without an index reads up to the whole table: what is rare in a large one stays uncounted."""
FREE_WARN = 0.10
FREE_CRIT = 0.05
"""Shares of a disk. PostgreSQL stops where its own is full."""
CHANGES_WARN = 2_000
"""They are forgotten every 256 writes, when every index has applied and saved them."""
DELETES_WARN = 1_000_000
CACHE_WARN = 1.0
MAX_EFFORT = 100_000
"""No index has so many lists to probe, nor does a search look at so many candidates."""


def pool_saturation(subject: Subject) -> Iterable[Check]:
    """Whether searches wait for a connection, in this process."""
    stats = subject.database.pool_stats()
    waiting, most = stats.get("requests_waiting", 0), stats.get("pool_max", 0)
    yield subject.check(
        "pool_saturation",
        level_above(waiting, 0, most),
        value=waiting,
        unit="callers",
        threshold="nobody waits",
        detail=f"{waiting} wait for one of {most} connections",
        hint="raise pool_size (RAGSTONE_POOL_SIZE), lower service_threads, or find what holds the connections so long",
    )


def cache_size(subject: Subject) -> Iterable[Check]:
    """Whether all HNSW indexes fit into memory, as PostgreSQL was told how much there is (effective_cache_size)."""
    server = figures.server_figures(subject.database, subject.left_ms)
    total_bytes, _ = figures.index_bytes(subject.database, subject.left_ms)
    share = total_bytes / server.cache_bytes
    yield subject.check(
        "cache_size",
        level_above(share, CACHE_WARN),
        value=share,
        unit="share",
        threshold=f"at most {CACHE_WARN:g}",
        detail=f"{mib(total_bytes)} of HNSW; effective_cache_size is {mib(server.cache_bytes)}",
        hint="searches read from disk: give PostgreSQL more memory, or move a collection: `ragstone move plan`",
    )


def disk_space(subject: Subject) -> Iterable[Check]:
    """Room where PostgreSQL and the indexes in files keep their data, where that is on this machine."""
    settings = subject.rag.settings
    _, largest_bytes = figures.index_bytes(subject.database, subject.left_ms)
    if subject.rag.is_embedded:
        yield _room(subject, "data_disk", Path(settings.data).expanduser(), largest_bytes)
    try:
        folder = index_folder(settings)
    except InvalidSettings:  # no index is kept in files here
        return
    if folder.is_dir():
        sizes = [_size_bytes(index) for index in folder.iterdir()]
        yield _room(subject, "index_disk", folder, max(sizes, default=0))


def filtered_searches(subject: Subject) -> Iterable[Check]:
    """Search with filters drawn from the metadata: as many hits as were asked for, where so many chunks match."""
    with Look(subject, subject.rows[0], "filtered_searches").as_searched() as attached:
        state = find_collection(subject.database, subject.state.name)
        searcher = Searcher(subject.database, state, attached, subject.rag.settings.statement_budget_ms)
        outcomes = [_outcome(subject, searcher, query, filter) for query, filter in _drawn(subject)]
    if not outcomes:
        return
    short, refused, unseen = (outcomes.count(outcome) for outcome in ("short", "refused", "unseen"))
    level: Level = "crit" if short else "warn" if refused else "unknown" if unseen == len(outcomes) else "ok"
    yield subject.check(
        "filtered_searches",
        level,
        backend=subject.state.backend,
        value=short + refused,
        unit="searches",
        threshold=f"each returns {TOP_K} hits, or all that match",
        detail=f"of {len(outcomes)} drawn, {short} came back short, {refused} took longer than statement_budget_ms; "
        f"of {unseen}, what matches is too much to count",
        hint="short: see filter_index_ready and unjoined_embeddings; refused: raise statement_budget_ms",
    )


def recall(subject: Subject) -> Iterable[Check]:
    """What searches of users missed, as it was measured of late: of each collection the worst band of selectivity."""
    worst: dict[tuple[str, str], Standing] = {}
    for standing in standings(subject.database, subject.rag):
        key = standing.collection, standing.backend
        if key not in worst or _above_target(standing) < _above_target(worst[key]):
            worst[key] = standing
    for standing in worst.values():
        yield Check(
            name="recall",
            level="crit" if standing.below else "ok",
            collection=standing.collection,
            backend=standing.backend,
            value=standing.recall.mean,
            unit="recall",
            threshold=f"at least {standing.target:g}",
            detail=str(standing),
            hint=f"raise the effort: `ragstone recall tune {standing.collection}`" if standing.below else "",
        )


def tuned_efforts(subject: Subject) -> Iterable[Check]:
    """Efforts that were tuned must be such that a search can take them."""
    found = [
        f"{effort} on {backend} for {band!r}"
        for backend, efforts in subject.state.efforts.items()
        for band, effort in efforts.items()
        if band not in BANDS or not 1 <= effort <= MAX_EFFORT
    ]
    yield subject.check(
        "tuned_efforts",
        "warn" if found else "ok",
        value=len(found),
        unit="efforts",
        threshold=f"1 to {MAX_EFFORT:,}, for one of the bands {', '.join(BANDS)}",
        detail="; ".join(found),
        hint=f"tune again: `ragstone recall tune {subject.state.name}`",
    )


def change_log(subject: Subject) -> Iterable[Check]:
    """Changes and deletes are kept until the slowest index has them: one that never comes keeps all."""
    changes, deletes = figures.change_log(subject.database, subject.state, subject.left_ms, limit=DELETES_WARN + 1)
    following = {row.backend: row.durable for row in subject.rows if row.durable is not None}
    held_by = min(following, key=lambda backend: following[backend] or 0, default="no index")
    yield subject.check(
        "change_log",
        "warn" if changes > CHANGES_WARN or deletes > DELETES_WARN else "ok",
        value=changes,
        unit="changes",
        threshold=f"at most {CHANGES_WARN:,} changes and {DELETES_WARN:,} deletes",
        detail=f"{changes:,} changes and {deletes:,} deletes are kept for {held_by}",
        hint="bring that index back, or give it up: `ragstone move finish` or `ragstone move cancel`",
    )


def _room(subject: Subject, name: str, folder: Path, largest_bytes: int) -> Check:
    usage = shutil.disk_usage(folder)
    share = usage.free / usage.total
    level: Level = "crit" if share < FREE_CRIT else "warn" if share < FREE_WARN or usage.free < largest_bytes else "ok"
    return subject.check(
        name,
        level,
        value=share,
        unit="share",
        threshold=f"at least {FREE_WARN:g} free, and room for the largest index ({mib(largest_bytes)}) once more",
        detail=f"{mib(usage.free)} of {mib(usage.total)} are free in {folder}",
        hint="make room, or give the folder a larger disk: an index is built anew beside the one that serves",
    )


def _size_bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _above_target(standing: Standing) -> float:
    """By how much the best that recall may be is above its target."""
    return standing.recall.high - standing.target


def _drawn(subject: Subject) -> Iterator[tuple[Embeddings, Filter]]:
    """Give stored embeddings as queries, each with a filter that at least one chunk meets."""
    state = subject.state
    percent = min(100.0, 100.0 * PAGES_DRAWN * CHUNKS_DRAWN / max(state.chunks, 1))
    drawn = figures.sample_metadata(subject.database, state, subject.left_ms, percent=percent, count=CHUNKS_DRAWN)
    filters = [parse(filter) for filter in _conditions(drawn)]
    queries = sample_embeddings(subject.database, state, CHUNKS_DRAWN, seed=time.time_ns() % (1 << 31))
    return ((query, filter) for query, filter in zip(queries, filters, strict=False) if filter is not None)


def _conditions(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one condition for each of a few keys, with a value that was drawn."""
    values = {
        key: value for metadata in drawn for key, value in metadata.items() if isinstance(value, str | int | float)
    }
    return [{key: {"$eq": value}} for key, value in list(values.items())[:FILTERED_SEARCHES]]


def _outcome(subject: Subject, searcher: Searcher, query: Embeddings, filter: Filter) -> str:
    """Search as users do. Counted before and after, so that a write in between is no finding."""
    try:
        before = _matching(subject, filter)
        hits = len(searcher.search(query, TOP_K, filter).hits)
        return "short" if hits < before and hits < _matching(subject, filter) else "whole"
    except FilterTooExpensive:
        return "refused"
    except CorpusUnavailable:
        return "unseen"


def _matching(subject: Subject, filter: Filter) -> int:
    limit_ms = min(subject.left_ms, COUNT_MS)
    return figures.count_by_reading(subject.database, subject.state, limit_ms, filter, limit=TOP_K)


CORPUS_CHECKS: tuple[CheckFunction, ...] = (pool_saturation, cache_size, disk_space, recall)
CHECKS: tuple[CheckFunction, ...] = (filtered_searches, tuned_efforts, change_log)
