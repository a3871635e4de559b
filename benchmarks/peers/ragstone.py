"""Our own library as its users have it, on pgvector: `upsert_embeddings`, `wait_until_indexed`, `search`."""

from typing import ClassVar

import retrieval
from benchmarks.peers.protocol import Below, Embeddings, Peer, Place, Rows
from retrieval.config import load

NAME = "benchmark"
INDEXED_WITHIN_S = 7_200


class RagstonePeer(Peer):
    """A collection in the corpus. Effort is a setting, so each effort has the corpus opened once, outside the clock."""

    name = "ragstone"
    distributions: ClassVar[tuple[str, ...]] = ("ragstone", "psycopg", "pgvector")
    has_batches = True
    settings: ClassVar[dict[str, object]] = {}

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._rag = self._opened(None)
        self._rags: dict[int | None, retrieval.Ragstone] = {None: self._rag}
        self._collection: retrieval.Collection | None = None

    def load(self, rows: Rows) -> None:
        """Write all rows in one call, and wait for HNSW."""
        if NAME in self._rag.collections():
            self._rag.delete_collection(NAME)
        self._collection = self._rag.create_collection(NAME, dimension=rows.dimension, metric=rows.metric)
        self._collection.upsert_embeddings(rows.ids, rows.embeddings, rows.texts, rows.metadata())
        self.note_stored()
        self._collection.wait_until_indexed(INDEXED_WITHIN_S)

    def prepare(self, effort: int | None) -> None:
        """Search through the corpus that was opened with this ef_search."""
        if effort not in self._rags:
            self._rags[effort] = self._opened(effort)
        self._collection = self._rags[effort].collection(NAME)

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> list[str]:
        """Search through the library; a hit has its text and metadata."""
        del effort  # `prepare` has set it
        assert self._collection is not None
        filter = None if below is None else {"n": {"$lt": below.bound}}
        return [hit.id for hit in self._collection.search(embedding, top_k, filter)]

    def search_many(self, embeddings: Embeddings, top_k: int, effort: int | None) -> list[list[str]]:
        """Search a batch in one call."""
        del effort  # `prepare` has set it
        assert self._collection is not None
        return [[hit.id for hit in hits] for hits in self._collection.search_many(embeddings, top_k)]

    def size_bytes(self) -> int:
        """All tables of the corpus, which are this collection's, with their indexes."""
        statement = (
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c "
            "WHERE c.relkind = 'r' AND c.relnamespace = 'ragstone'::regnamespace"
        )
        with self._rag.database.connection() as connection:
            row = connection.execute(statement).fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        """Close the corpus."""
        for rag in self._rags.values():
            rag.close()

    def _opened(self, effort: int | None) -> retrieval.Ragstone:
        settings = load(
            data=self.place.url,
            embedding_model="hashing",
            ef_search=effort,
            placement="advise",
            old_index_kept_s=0.0,
            index_folder=str(self.place.folder / "indexes"),
            **self.settings,
        )
        return retrieval.open(settings=settings)


PEER = RagstonePeer
