"""Which backend a collection belongs to, by size, and how its index is opened: the routing table."""

from collections.abc import Callable

from backends.base import VectorIndex
from backends.corpus.collections import CollectionState, identity
from backends.corpus.database import Database
from backends.corpus.following import bring_up_to_date
from backends.errors import IndexUnavailable
from backends.memory import MemoryIndex
from backends.pgvector import PgvectorIndex
from retrieval.config import Settings

DEFAULT_BACKEND = PgvectorIndex.name

Opener = Callable[[Database, CollectionState, Settings], VectorIndex]


def _pgvector(database: Database, collection: CollectionState, settings: Settings) -> VectorIndex:
    owner = identity(database, collection.id)
    return PgvectorIndex(database, collection, owner, settings.ef_search, settings.statement_budget_ms)


def _memory(database: Database, collection: CollectionState, settings: Settings) -> VectorIndex:
    del settings
    index = MemoryIndex(collection.spec, identity(database, collection.id))
    bring_up_to_date(database, collection, index)
    return index


BACKENDS: dict[str, Opener] = {PgvectorIndex.name: _pgvector, MemoryIndex.name: _memory}


def open_index(database: Database, collection: CollectionState, settings: Settings) -> VectorIndex:
    """Open the index that serves a collection; raises IndexUnavailable for a backend that this process lacks."""
    opener = BACKENDS.get(collection.backend)
    if opener is None:
        raise IndexUnavailable(
            f"collection {collection.name!r} is served by {collection.backend!r}; this Ragstone has "
            f"{', '.join(sorted(BACKENDS))}"
        )
    return opener(database, collection, settings)


def builds_hnsw(chunks: int, settings: Settings) -> bool:
    """Whether a collection of this size is to have HNSW: not while it is small, nor above the threshold."""
    return settings.index_min_chunks <= chunks < settings.placement_threshold
