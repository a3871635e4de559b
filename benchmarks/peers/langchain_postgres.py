"""langchain-postgres: PGVectorStore over PGEngine with asyncpg, as its guide does it, called from synchronous code."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import psycopg
from langchain_core.embeddings import FakeEmbeddings
from langchain_postgres import Column, PGEngine, PGVectorStore
from langchain_postgres.v2.indexes import DistanceStrategy, HNSWIndex, HNSWQueryOptions

from benchmarks.peers.protocol import HNSW_EF_CONSTRUCTION, HNSW_M, Below, Embeddings, Peer, Place, Rows, blocks

TABLE = "langchain_peer"
BLOCK_ROWS = 1_000
STRATEGIES = {"cosine": DistanceStrategy.COSINE_DISTANCE, "l2": DistanceStrategy.EUCLIDEAN}


class LangchainPostgres(Peer):
    """The metadata "n" has a column of its own, since its filters read nothing else."""

    name = "langchain-postgres"
    distributions = ("langchain-postgres", "langchain-core", "SQLAlchemy", "asyncpg", "pgvector")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        url = urlsplit(place.url)._replace(scheme="postgresql+asyncpg").geturl()
        self._engine = PGEngine.from_connection_string(url)
        self._strategy = STRATEGIES["cosine"]
        self._effort: int | None = None
        self._store: Any = None

    def load(self, rows: Rows) -> None:
        """Add the embeddings, each of which it sends and commits by itself, then build the index."""
        self._strategy = STRATEGIES[rows.metric]
        self._engine.init_vectorstore_table(
            TABLE,
            rows.dimension,
            id_column=Column("langchain_id", "TEXT", nullable=False),
            metadata_columns=[Column("n", "INTEGER")],
            overwrite_existing=True,
        )
        self._store = self._opened(None)
        metadata = rows.metadata()
        for part in blocks(rows, BLOCK_ROWS):
            embeddings = rows.embeddings[part].tolist()
            self._store.add_embeddings(rows.texts[part], embeddings, metadata[part], rows.ids[part])
        self.note_stored()
        index = HNSWIndex(distance_strategy=self._strategy, m=HNSW_M, ef_construction=HNSW_EF_CONSTRUCTION)
        self._store.apply_vector_index(index)
        with psycopg.connect(self.place.url, autocommit=True) as connection:
            connection.execute(f"VACUUM ANALYZE {TABLE}")

    def prepare(self, effort: int | None) -> None:
        """Open the store anew where the effort is another; its options carry it."""
        if effort != self._effort:
            self._store = self._opened(effort)

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> Sequence[str]:  # noqa: ARG002  # prepared
        """Ask for LangChain documents."""
        only = None if below is None else {"n": {"$lt": below.bound}}
        found = self._store.similarity_search_by_vector(embedding.tolist(), top_k, only)
        return [document.id for document in found]

    def size_bytes(self) -> int | None:
        """Its table with every index."""
        with psycopg.connect(self.place.url) as connection:
            found = connection.execute("SELECT pg_total_relation_size(%s)", (TABLE,)).fetchone()
            return None if found is None else int(found[0])

    def close(self) -> None:
        """Give back its connections."""
        self._engine._run_as_sync(self._engine.close())  # it offers no other way from synchronous code

    def _opened(self, effort: int | None) -> PGVectorStore:
        self._effort = effort
        return PGVectorStore.create_sync(
            self._engine,
            FakeEmbeddings(size=1),  # embeds nothing here
            TABLE,
            metadata_columns=["n"],
            distance_strategy=self._strategy,
            index_query_options=None if effort is None else HNSWQueryOptions(ef_search=effort),
        )


PEER = LangchainPostgres
