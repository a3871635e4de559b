"""pgvector-haystack: PgvectorDocumentStore and its embedding retriever, as its guide does it."""

import logging
from collections.abc import Sequence
from typing import Any

import psycopg
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.retrievers.pgvector import PgvectorEmbeddingRetriever
from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

from benchmarks.peers.protocol import HNSW_EF_CONSTRUCTION, HNSW_M, Below, Embeddings, Peer, Place, Rows, blocks

TABLE = "haystack_peer"
BLOCK_ROWS = 1_000
FUNCTIONS = {"cosine": "cosine_similarity", "l2": "l2_distance"}


class Haystack(Peer):
    """It makes its index before the rows come."""

    name = "pgvector-haystack"
    distributions = ("pgvector-haystack", "haystack-ai", "psycopg", "pgvector")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        logging.getLogger("haystack_integrations").setLevel(
            logging.ERROR
        )  # else it says each time that its index is there
        self._shape: dict[str, Any] = {}
        self._effort: int | None = None
        self._store: Any = None
        self._retriever: Any = None

    def load(self, rows: Rows) -> None:
        """Write documents in blocks."""
        self._shape = {"embedding_dimension": rows.dimension, "vector_function": FUNCTIONS[rows.metric]}
        self._open(None, recreate_table=True)
        metadata = rows.metadata()
        for part in blocks(rows, BLOCK_ROWS):
            given = zip(rows.ids[part], rows.texts[part], metadata[part], rows.embeddings[part].tolist(), strict=True)
            self._store.write_documents(
                [Document(id=id_, content=text, meta=more, embedding=row) for id_, text, more, row in given]
            )
        with psycopg.connect(self.place.url, autocommit=True) as connection:
            connection.execute(f"VACUUM ANALYZE {TABLE}")

    def prepare(self, effort: int | None) -> None:
        """Open the store anew where the effort is another, which it sets for its connection."""
        if effort != self._effort:
            self._open(effort)

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> Sequence[str]:  # noqa: ARG002  # prepared
        """Ask the retriever for documents."""
        only = {"field": "meta.n", "operator": "<", "value": below.bound} if below else None
        found = self._retriever.run(query_embedding=embedding.tolist(), filters=only, top_k=top_k)
        return [document.id for document in found["documents"]]

    def size_bytes(self) -> int | None:
        """Its table with every index."""
        with psycopg.connect(self.place.url) as connection:
            found = connection.execute("SELECT pg_total_relation_size(%s)", (TABLE,)).fetchone()
            return None if found is None else int(found[0])

    def close(self) -> None:
        """Give back its connection."""
        if self._store is not None:
            self._store.close()

    def _open(self, effort: int | None, *, recreate_table: bool = False) -> None:
        self.close()
        self._effort = effort
        self._store = PgvectorDocumentStore(
            connection_string=Secret.from_token(self.place.url),
            table_name=TABLE,
            search_strategy="hnsw",
            hnsw_index_creation_kwargs={"m": HNSW_M, "ef_construction": HNSW_EF_CONSTRUCTION},
            hnsw_ef_search=effort,
            recreate_table=recreate_table,
            **self._shape,
        )
        self._retriever = PgvectorEmbeddingRetriever(document_store=self._store)


PEER = Haystack
