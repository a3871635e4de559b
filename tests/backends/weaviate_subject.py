"""What the tests of the Weaviate adapter share: an index against a server, and chunks to put in it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from backends.types import Batch, Change, IndexIdentity, IndexSpec
from backends.vectors import prepare
from backends.weaviate import WeaviateIndex
from tests.fakes.weaviate_server import FakeWeaviate

SPEC = IndexSpec(dimension=8)
IDENTITY = IndexIdentity(collection_id=7, system_identifier=-5, timeline=1, index_id=3)
TIMEOUT_S = 2.0


@contextmanager
def opened(
    server: FakeWeaviate,
    spec: IndexSpec = SPEC,
    identity: IndexIdentity = IDENTITY,
    api_key: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[WeaviateIndex]:
    """Open an index, and close it at the end."""
    index = WeaviateIndex(
        spec, identity, url=server.url, grpc_port=server.grpc_port, api_key=api_key, timeout_s=timeout_s
    )
    try:
        yield index
    finally:
        index.close()


def batch(ids: Iterable[int], spec: IndexSpec = SPEC, attributes: list[dict[str, Any]] | None = None) -> Batch:
    """Make chunks of these ids. A chunk's embedding depends on its id alone."""
    chosen = np.array(list(ids), dtype=np.int64)
    rows = [np.random.default_rng(id_).normal(size=spec.dimension) for id_ in chosen.tolist()]
    embeddings = prepare(np.array(rows).reshape(len(rows), spec.dimension), spec)
    return Batch(ids=chosen, embeddings=embeddings, attributes=attributes or [{} for _ in rows])


def change(sequence: int, upserts: Batch | None = None, deletes: Iterable[int] = ()) -> Change:
    """Make a change of some writes and some deletes."""
    return Change(
        sequence=sequence, upserts=batch([]) if upserts is None else upserts, deletes=np.array([*deletes], np.int64)
    )


def held(index: WeaviateIndex) -> list[int]:
    """Return the ids that the index says it holds, in order."""
    return sorted(id_ for page in index.ids() for id_ in page.tolist())


def proposed(index: WeaviateIndex, id_: int, candidates: int = 1) -> list[int]:
    """Return what a search by this chunk's own embedding proposes."""
    return index.search(batch([id_], index.spec).embeddings, candidates).ids[0].tolist()
