"""Old indexes go in two steps: first nobody is sent there any more, then, when the longest query is over, they go."""

import logging
from dataclasses import replace
from datetime import UTC, datetime

from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.indexes import IndexRow, all_indexes, forget_index, indexes_of, set_state
from backends.errors import NotFound, RagstoneError
from backends.pgvector import PgvectorIndex
from retrieval.library import Ragstone
from retrieval.placement import open_index

ROUTES_KNOWN_S = 5.0
"""By then every process has heard of a change-over."""

log = logging.getLogger(__name__)


def drop_old(rag: Ragstone, kept_s: float, name: str | None = None) -> list[str]:
    """Drop the indexes that have not served for `kept_s` seconds, of one collection or of all.

    The first call says that they go, and a later one, when the longest query is over, removes them. Returns what
    is still to be removed. One that cannot be reached is tried again at the next call.
    """
    waiting = []
    for collection, row in all_indexes(rag.database):
        if row.serving or (name is not None and collection != name):
            continue
        if row.state == "live" and _age_s(row) >= kept_s:
            set_state(rag.database, row.id, "dropping")
            waiting.append(f"{row.backend} of {collection}")
        elif row.state == "dropping" and not _removed(rag, collection, row):
            waiting.append(f"{row.backend} of {collection}")
    return waiting


def longest_query_s(rag: Ragstone) -> float:
    """Return how long a search that began before a change-over may still use the old index."""
    return rag.settings.statement_budget_ms / 1000 + rag.settings.backend_timeout_s + ROUTES_KNOWN_S


def _removed(rag: Ragstone, name: str, row: IndexRow) -> bool:
    if _age_s(row) < longest_query_s(rag):
        return False
    try:
        remove(rag, find_collection(rag.database, name), row)
    except NotFound:
        return True
    except RagstoneError as error:
        log.warning("the old %s index of %s could not be removed yet: %s", row.backend, name, error)
        return False
    return True


def remove(rag: Ragstone, collection: CollectionState, row: IndexRow) -> None:
    """Remove an index from where it is, then from the corpus's memory."""
    if not _is_used_again(rag, row):
        index = open_index(rag.database, replace(collection, backend=row.backend, index_id=row.id), rag.settings)
        try:
            index.drop()
        finally:
            index.close()
    forget_index(rag.database, row.id)


def _is_used_again(rag: Ragstone, row: IndexRow) -> bool:
    """Whether the collection has come back to its HNSW: the corpus holds only one, whatever its rows are."""
    in_corpus = row.backend == PgvectorIndex.name
    others = (other for other in indexes_of(rag.database, row.collection_id) if other.id != row.id)
    return in_corpus and any(other.backend == row.backend and other.state != "dropping" for other in others)


def _age_s(row: IndexRow) -> float:
    return (datetime.now(UTC) - row.changed_at).total_seconds()
