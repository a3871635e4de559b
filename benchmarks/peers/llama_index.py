"""llama-index-vector-stores-postgres: PGVectorStore with its HNSW settings, over psycopg2, as its guide does it."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import psycopg2
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import FilterOperator, MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.postgres import PGVectorStore

from benchmarks.peers.protocol import HNSW_EF_CONSTRUCTION, HNSW_M, Below, Embeddings, Peer, Place, Rows, blocks

TABLE = "llama_peer"
STORED_TABLE = f"data_{TABLE}"  # it adds the prefix
BLOCK_ROWS = 1_000
EFFORT = 40


class LlamaIndex(Peer):
    """It makes its index before the rows come; its searches are by cosine whatever the index is."""

    name = "llama-index-vector-stores-postgres"
    distributions = ("llama-index-vector-stores-postgres", "llama-index-core", "SQLAlchemy", "psycopg2-binary")
    metrics = ("cosine",)

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._store: Any = None

    def load(self, rows: Rows) -> None:
        """Add nodes in blocks, which its object mapper inserts."""
        if rows.metric not in self.metrics:
            raise ValueError(f"{self.name} searches by cosine alone, not by {rows.metric}")
        self._execute(f"DROP TABLE IF EXISTS {STORED_TABLE}")
        self._store = self._opened(rows.dimension)
        metadata = rows.metadata()
        for part in blocks(rows, BLOCK_ROWS):
            given = zip(rows.ids[part], rows.texts[part], metadata[part], rows.embeddings[part].tolist(), strict=True)
            self._store.add(
                [TextNode(id_=id_, text=text, metadata=more, embedding=row) for id_, text, more, row in given]
            )
        self._execute(f"VACUUM ANALYZE {STORED_TABLE}")

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> Sequence[str]:
        """Ask for nodes."""
        only = [MetadataFilter(key="n", operator=FilterOperator.LT, value=below.bound)] if below else None
        query = VectorStoreQuery(
            query_embedding=embedding.tolist(),
            similarity_top_k=top_k,
            filters=MetadataFilters(filters=only) if only else None,
        )
        found = self._store.query(query, **({} if effort is None else {"hnsw_ef_search": effort}))
        return [node.node_id for node in found.nodes]

    def size_bytes(self) -> int | None:
        """Its table with every index."""
        return int(self._execute(f"SELECT pg_total_relation_size('{STORED_TABLE}')")[0][0])

    def close(self) -> None:
        """Give back its connections."""
        if self._store is not None:
            self._store.client.dispose()

    def _opened(self, dimension: int) -> PGVectorStore:
        parts = urlsplit(self.place.url)
        return PGVectorStore(
            connection_string=parts._replace(scheme="postgresql+psycopg2").geturl(),
            async_connection_string=parts._replace(scheme="postgresql+asyncpg").geturl(),
            table_name=TABLE,
            embed_dim=dimension,
            use_jsonb=True,
            initialization_fail_on_error=True,
            hnsw_kwargs={
                "hnsw_m": HNSW_M,
                "hnsw_ef_construction": HNSW_EF_CONSTRUCTION,
                "hnsw_ef_search": EFFORT,
                "hnsw_dist_method": "vector_cosine_ops",
            },
        )

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.place.url)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


PEER = LlamaIndex
