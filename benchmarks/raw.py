"""Raw psycopg on the library's own tables, and taking turns with it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
from pgvector.psycopg import register_vector

from backends.corpus.search import OPERATOR
from retrieval.collection import Collection
from retrieval.library import Ragstone

TOP_K = 10
EF_SEARCH = 40
BLOCK_QUERIES = 50
_COLUMNS = "c.document_id, c.ordinal, c.title, c.text, c.metadata, c.start_at, c.end_at"


def fresh(rag: Ragstone, name: str, dimension: int) -> Collection:
    """Create an empty collection, in the place of the one of that name."""
    if name in rag.collections():
        rag.delete_collection(name)
    return rag.create_collection(name, dimension=dimension, metric="l2")


@contextmanager
def raw_connection(rag: Ragstone, *more: str) -> Iterator[psycopg.Connection[Any]]:
    """Open a connection as a careful user of psycopg would, with `more` settings."""
    with psycopg.connect(rag.database.conninfo, autocommit=True, prepare_threshold=0) as raw:
        register_vector(raw)
        for setting in ("jit = off", f"hnsw.ef_search = {EF_SEARCH}", "enable_seqscan = off", *more):
            raw.execute(f"SET {setting}".encode())
        yield raw


def query_text(text: str, table_id: int, **more: str) -> str:
    """Fill a raw statement with a collection's tables and the columns that a hit has."""
    return text.format(
        columns=_COLUMNS,
        operator=OPERATOR["l2"],
        embedding=f"ragstone.embedding_{table_id}",
        chunk=f"ragstone.chunk_{table_id}",
        **more,
    )


def interleaved(calls: dict[str, Callable[[int], object]], count: int, rounds: int) -> dict[str, list[float]]:
    """Take turns in blocks of queries, and turns at going first, since a later one finds warmer caches.

    Returns seconds a query; everything was called for a block once before.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for name in order:
        for position in range(min(BLOCK_QUERIES, count)):
            calls[name](position)
    for _ in range(rounds):
        for start in range(0, count, BLOCK_QUERIES):
            order = [*order[1:], order[0]]
            for name in order:
                for position in range(start, min(start + BLOCK_QUERIES, count)):
                    times[name].append(timed(partial(calls[name], position)))
    return times


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
