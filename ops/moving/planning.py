"""What a move would take: from rates measured on this machine, and the sizes that each backend is known to need."""

import math
import secrets
import time
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.following import ROWS_PER_BATCH, snapshot
from backends.corpus.moves import measured_rate
from backends.errors import InvalidInput
from backends.pgvector import M, PgvectorIndex
from retrieval.library import Ragstone
from retrieval.placement import MOVE_TARGETS, belongs_to, open_index, threshold_of

PROBE_IDS = 1 << 40
"""No index of the corpus has a number beyond this: a probe meets nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a move would take. `due` says that the collection's size asks for it.

    `memory_bytes` and `disk_bytes` are what the new index needs on this machine, or in the store where `where` says
    so. `rate_source` says where the rate comes from.
    """

    collection: str
    source: str
    target: str
    due: bool
    reason: str
    chunks: int
    dimension: int
    chunks_per_s: float
    rate_source: str
    duration_s: float
    memory_bytes: int
    disk_bytes: int
    where: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that an index needs, and where."""

    memory_bytes: int
    disk_bytes: int
    where: str = "on this machine"


def plan(rag: Ragstone, name: str, target: str | None = None) -> Plan:
    """Say what moving a collection would take; nothing is moved.

    The rate is that of the last move into the same backend, else of a build of a few thousand of the collection's
    chunks that is thrown away at once. Raises InvalidInput for a target that there is not, InvalidSettings and
    Unsupported for one that is not configured or installed, IndexUnavailable for one that cannot be reached.
    """
    collection = find_collection(rag.database, name)
    wanted = target or belongs_to(collection, rag.settings)
    if wanted not in MOVE_TARGETS:
        raise InvalidInput("--to", f"found {wanted!r}; needed one of {', '.join(MOVE_TARGETS)}")
    stays = wanted == collection.backend
    rate, source = (0.0, "nothing is to be moved") if stays else _rate(rag, collection, wanted)
    needs = Needs(0, 0) if stays else needed(collection, wanted)
    return Plan(
        collection=name,
        source=collection.backend,
        target=wanted,
        due=belongs_to(collection, rag.settings) != collection.backend,
        reason=_reason(rag, collection),
        chunks=collection.chunks,
        dimension=collection.spec.dimension,
        chunks_per_s=rate,
        rate_source=source,
        duration_s=collection.chunks / rate if rate else 0.0,
        memory_bytes=needs.memory_bytes,
        disk_bytes=needs.disk_bytes,
        where=needs.where,
    )


def needed(collection: CollectionState, backend: str) -> Needs:
    """Estimate what an index of this size needs: the vectors as they are kept there, and the graph's links.

    HNSW's lowest layer has 2 m links a vector, the layers above together 1 / (m - 1) of the vectors with m links
    (https://arxiv.org/abs/1603.09320, section 4). Weaviate keeps float32 and asks for twice the vectors' size in
    memory (https://docs.weaviate.io/weaviate/concepts/resources).
    """
    chunks, dimension = collection.chunks, collection.spec.dimension
    kept_bytes = chunks * dimension * (2 if collection.spec.precision == "half" else 4)
    single_bytes = chunks * dimension * 4
    match backend:
        case "pgvector":
            links = chunks * (2 * M + M / (M - 1)) * 6  # a link is an item pointer
            return Needs(math.ceil(kept_bytes + links), math.ceil(kept_bytes + links))
        case "faiss":
            links = chunks * 2 * 32 * 4 if chunks >= 10_000 else 0
            size = kept_bytes + links + chunks * 8
            return Needs(math.ceil(size), math.ceil(2 * size))  # while it is built, the rows lie beside it
        case "weaviate":
            return Needs(2 * single_bytes, math.ceil(1.5 * single_bytes), "in Weaviate")
        case _:
            return Needs(0, single_bytes, "in Pinecone")


def _reason(rag: Ragstone, collection: CollectionState) -> str:
    if collection.pinned_backend is not None:
        return f"it was put on {collection.pinned_backend} by hand and stays there"
    threshold = threshold_of(collection, rag.settings)
    side = "above" if collection.chunks > threshold else "not above"
    return f"{collection.chunks:,} chunks are {side} its threshold of {threshold:,}"


def _rate(rag: Ragstone, collection: CollectionState, target: str) -> tuple[float, str]:
    """Return chunks a second and where that was measured; the work grows with the dimension."""
    known = measured_rate(rag.database, target)
    if known is not None:
        rate, dimension = known
        return rate * dimension / collection.spec.dimension, f"the last move to {target}"
    if collection.chunks == 0:
        return 0.0, "the collection is empty"
    chunks, took_s = _probe(rag, collection, target)
    return chunks / took_s, f"a build of {chunks:,} of its chunks, thrown away"


def _probe(rag: Ragstone, collection: CollectionState, target: str) -> tuple[int, float]:
    state = replace(collection, backend=target, index_id=PROBE_IDS + secrets.randbelow(PROBE_IDS))
    index = open_index(rag.database, state, rag.settings)
    if isinstance(index, PgvectorIndex):
        return index.probe(ROWS_PER_BATCH)
    started_s = time.perf_counter()
    try:
        with snapshot(rag.database, collection) as view:
            batches = list(islice(view.batches, 1))
            index.build(iter(batches), view.sequence)
        return sum(len(batch.ids) for batch in batches), time.perf_counter() - started_s
    finally:
        index.drop()
        index.close()
