"""Which backend a collection belongs to, by size, and how its indexes are opened: the routing table."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr

from backends.base import VectorIndex
from backends.corpus.collections import CollectionState, identity
from backends.corpus.database import Database
from backends.errors import IndexUnavailable, InvalidSettings, Unsupported
from backends.memory import MemoryIndex
from backends.pgvector import PgvectorIndex
from backends.types import IndexIdentity
from retrieval.config import Settings

DEFAULT_BACKEND = PgvectorIndex.name
HYSTERESIS = 0.8
"""A collection comes back to pgvector below this share of the threshold, so that one near the line stays put."""


@dataclass(frozen=True, slots=True)
class _Opening:
    """What the opener of an index may need."""

    database: Database
    collection: CollectionState
    owner: IndexIdentity
    settings: Settings


def _pgvector(opening: _Opening) -> VectorIndex:
    settings = opening.settings
    return PgvectorIndex(
        opening.database, opening.collection, opening.owner, settings.ef_search, settings.statement_budget_ms
    )


def _memory(opening: _Opening) -> VectorIndex:
    return MemoryIndex(opening.collection.spec, opening.owner)


def _faiss(opening: _Opening) -> VectorIndex:
    from backends.faiss import FaissIndex

    settings = opening.settings
    folder = index_folder(settings) / opening.owner.name
    return FaissIndex(
        opening.collection.spec,
        opening.owner,
        folder=folder,
        kind=settings.faiss_kind,
        device=settings.faiss_device,
        ef_search=settings.ef_search,
    )


def _weaviate(opening: _Opening) -> VectorIndex:
    from backends.weaviate import WeaviateIndex

    settings = opening.settings
    if settings.weaviate_url is None:
        raise InvalidSettings("weaviate_url", "found none; needed Weaviate's address (RAGSTONE_WEAVIATE_URL)")
    return WeaviateIndex(
        opening.collection.spec,
        opening.owner,
        url=settings.weaviate_url,
        grpc_port=settings.weaviate_grpc_port,
        api_key=_secret(settings.weaviate_api_key),
        ef_search=settings.ef_search,
        timeout_s=settings.backend_timeout_s,
    )


def _pinecone(opening: _Opening) -> VectorIndex:
    from backends.pinecone import PineconeIndex

    settings = opening.settings
    api_key = _secret(settings.pinecone_api_key)
    if api_key is None:
        raise InvalidSettings("pinecone_api_key", "found none; needed a key of Pinecone's (RAGSTONE_PINECONE_API_KEY)")
    return PineconeIndex(
        opening.collection.spec,
        opening.owner,
        api_key=api_key,
        host=settings.pinecone_host,
        cloud=settings.pinecone_cloud,
        region=settings.pinecone_region,
        timeout_s=settings.backend_timeout_s,
    )


_OPENERS: dict[str, Callable[[_Opening], VectorIndex]] = {
    "pgvector": _pgvector,
    "faiss": _faiss,
    "weaviate": _weaviate,
    "pinecone": _pinecone,
    "memory": _memory,
}
BACKENDS = tuple(_OPENERS)
MOVE_TARGETS = tuple(name for name in BACKENDS if name != MemoryIndex.name)
"""Memory is for tests: it is gone with its process."""


def open_index(database: Database, collection: CollectionState, settings: Settings) -> VectorIndex:
    """Open the index that `collection` names (backend and index_id); nothing is read or built yet.

    Raises IndexUnavailable for a backend that this version lacks, InvalidSettings where the backend is not
    configured, and Unsupported where its driver is not installed.
    """
    opener = _OPENERS.get(collection.backend)
    if opener is None:
        raise IndexUnavailable(
            f"collection {collection.name!r} is served by {collection.backend!r}; this Ragstone has "
            f"{', '.join(BACKENDS)}"
        )
    try:
        return opener(_Opening(database, collection, identity(database, collection), settings))
    except ModuleNotFoundError as error:
        raise Unsupported(
            f"the driver of {collection.backend} is not installed ({error.name}): "
            f"pip install 'ragstone[{collection.backend}]'"
        ) from error


def large_backend_here(settings: Settings) -> str:
    """Say in a few words where large collections go, and whether they can."""
    name = settings.large_backend
    missing = {"weaviate": settings.weaviate_url, "pinecone": settings.pinecone_api_key}.get(name, "")
    if find_spec(name) is None:
        return f"{name}, which is not installed yet: pip install 'ragstone[{name}]'"
    if missing is None:
        return f"{name}, which is not configured yet: see 'Large collections' in the README"
    if name != "faiss":
        return name
    from backends.faiss.gpu import card_for

    return f"faiss, on the {'GPU' if card_for(settings.faiss_device) else 'CPU (FAISS sees no GPU)'}"


def index_folder(settings: Settings) -> Path:
    """Return the folder for indexes that are files: beside an embedded PostgreSQL, or the one that is set."""
    if settings.index_folder is not None:
        return Path(settings.index_folder).expanduser()
    if "://" in settings.data:
        raise InvalidSettings(
            "index_folder",
            "found none, and the corpus is not in a folder; needed a folder for FAISS indexes on this machine "
            "(RAGSTONE_INDEX_FOLDER)",
        )
    return Path(settings.data).expanduser() / "vector-indexes"


def builds_hnsw(collection: CollectionState, settings: Settings) -> bool:
    """Whether a collection is to have HNSW: not while it is small, nor where it is going to leave pgvector."""
    stays = settings.placement == "advise" or belongs_to(collection, settings) == DEFAULT_BACKEND
    return collection.chunks >= settings.index_min_chunks and stays


def belongs_to(collection: CollectionState, settings: Settings) -> str:
    """Return the backend that a collection belongs to by its size, or where it was put by hand.

    Above the threshold it is the large backend. One that is there comes back at 0.8 of the threshold.
    """
    if collection.pinned_backend is not None:
        return collection.pinned_backend
    threshold = threshold_of(collection, settings)
    if collection.chunks > threshold:
        return settings.large_backend
    if collection.backend == DEFAULT_BACKEND or collection.chunks < HYSTERESIS * threshold:
        return DEFAULT_BACKEND
    return collection.backend


def threshold_of(collection: CollectionState, settings: Settings) -> int:
    """Return the chunks above which this collection leaves pgvector: its own number, or the service's."""
    return collection.placement_threshold or settings.placement_threshold


def recall_target_of(collection: CollectionState, settings: Settings) -> float:
    """Return the recall@10 that this collection's index must show: its own number, or the service's."""
    return settings.recall_target if collection.recall_target is None else collection.recall_target


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()
