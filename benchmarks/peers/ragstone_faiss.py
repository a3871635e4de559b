"""Our own library with the collection's index on FAISS, where text and metadata still come from PostgreSQL."""

import time
from typing import ClassVar

from benchmarks.peers.protocol import Rows
from benchmarks.peers.ragstone import NAME, RagstonePeer
from ops import moving

PATIENCE_S = 60


class RagstoneOnFaiss(RagstonePeer):
    """Loaded as on pgvector, but without HNSW there; then moved as `ragstone move start` would."""

    name = "ragstone_faiss"
    distributions = ("ragstone", "psycopg", "pgvector", "faiss-cpu")
    settings: ClassVar[dict[str, object]] = {"index_min_chunks": 10**9}

    def load(self, rows: Rows) -> None:
        """Write all rows, move the collection, and return when FAISS answers."""
        rag = self._rag
        if NAME in rag.collections():
            rag.delete_collection(NAME)
        collection = self._collection = rag.create_collection(NAME, dimension=rows.dimension, metric=rows.metric)
        collection.upsert_embeddings(rows.ids, rows.embeddings, rows.texts, rows.metadata())
        move = moving.work_on(rag, moving.start(rag, NAME, "faiss"))
        if move.phase != "done":
            raise RuntimeError(f"the move to FAISS ended in phase {move.phase}")
        deadline_s = time.monotonic() + PATIENCE_S
        while collection.search_with_timings(rows.embeddings[0], 1).backend != "faiss":
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"no search went to FAISS within {PATIENCE_S} s")
            time.sleep(0.05)

    def size_bytes(self) -> int:
        """The corpus, and the files of FAISS, which are mapped into memory."""
        files = (path for path in self.place.folder.rglob("*") if path.is_file())
        return super().size_bytes() + sum(path.stat().st_size for path in files)


PEER = RagstoneOnFaiss
