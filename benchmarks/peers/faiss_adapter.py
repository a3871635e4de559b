"""Our FAISS adapter alone, without the corpus: what it adds to plain FAISS. Preparing queries is the library's part."""

import numpy as np

from backends.faiss import FaissIndex
from backends.types import Batch, IndexIdentity, IndexSpec
from backends.vectors import prepare
from benchmarks.peers.protocol import Below, Embeddings, Peer, Place, Rows, blocks, folder_bytes

ROWS_PER_BATCH = 20_000


class FaissAdapter(Peer):
    """`FaissIndex.search`, with the ids of rows; what it proposes is as many candidates as hits are wanted."""

    name = "faiss_adapter"
    distributions = ("faiss-cpu",)
    has_filters = False
    has_batches = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._ids: list[str] = []
        self._index: FaissIndex | None = None

    def load(self, rows: Rows) -> None:
        """Build the index in the peer's folder."""
        self._ids = rows.ids
        spec = IndexSpec(dimension=rows.dimension, metric=rows.metric)
        identity = IndexIdentity(collection_id=1, system_identifier=1, timeline=1, index_id=1)
        self._index = FaissIndex(spec, identity, folder=self.place.folder / "index", kind="hnsw")
        embeddings, numbers = prepare(rows.embeddings, spec), np.arange(len(rows), dtype=np.int64)
        parts = blocks(rows, ROWS_PER_BATCH)
        batches = (
            Batch(ids=numbers[at], embeddings=embeddings[at], attributes=[{}] * len(numbers[at])) for at in parts
        )
        self._index.build(batches, applied=1)

    def shaped(self, queries: Embeddings) -> Embeddings:
        """Prepare the queries: an index is given prepared ones."""
        assert self._index is not None
        return prepare(queries, self._index.spec)

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> list[str]:
        """Search for one query."""
        assert below is None
        return self.search_many(embedding[None], top_k, effort)[0]

    def search_many(self, embeddings: Embeddings, top_k: int, effort: int | None) -> list[list[str]]:
        """Search a batch in one call."""
        assert self._index is not None
        found = self._index.search(embeddings, top_k, effort=effort)
        return [[self._ids[row] for row in rows.tolist()] for rows in found.ids]

    def size_bytes(self) -> int:
        """The files, which are mapped into memory."""
        return folder_bytes(self.place.folder)

    def close(self) -> None:
        """Close the index."""
        if self._index is not None:
            self._index.close()


PEER = FaissAdapter
