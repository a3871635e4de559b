"""chromadb: a collection of its persistent client, in this process, as its guide does it."""

from collections.abc import Sequence
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings

from benchmarks.peers.protocol import (
    HNSW_EF_CONSTRUCTION,
    HNSW_M,
    Below,
    Embeddings,
    Peer,
    Place,
    Rows,
    blocks,
    folder_bytes,
)

NAME = "peer"
BLOCK_ROWS = 5_000  # it takes 5,461 at most
EFFORT = 100  # its own
FETCHED = ["documents", "metadatas", "distances"]


class Chroma(Peer):
    """Writes go to its log; its HNSW graph in memory takes them when a search comes."""

    name = "chromadb"
    distributions = ("chromadb",)
    has_batches = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._client = self._opened()
        self._effort = EFFORT
        self._dimension = 0
        self._collection: Any = None

    def load(self, rows: Rows) -> None:
        """Add in blocks, then search once, since only that makes it index what its log holds."""
        if any(one.name == NAME for one in self._client.list_collections()):
            self._client.delete_collection(NAME)
        self._collection = self._client.create_collection(
            NAME,
            embedding_function=None,
            configuration={
                "hnsw": {
                    "space": rows.metric,
                    "max_neighbors": HNSW_M,
                    "ef_construction": HNSW_EF_CONSTRUCTION,
                    "ef_search": EFFORT,
                }
            },
        )
        self._effort = EFFORT
        metadata = rows.metadata()
        for part in blocks(rows, BLOCK_ROWS):
            self._collection.add(
                ids=rows.ids[part],
                embeddings=rows.embeddings[part],
                documents=rows.texts[part],
                metadatas=metadata[part],
            )
        self.search(rows.embeddings[0], 1, None, None)
        self._dimension = rows.dimension

    def prepare(self, effort: int | None) -> None:
        """Modify the collection, which keeps the effort, and open it anew: a graph in memory keeps the one it had."""
        wanted = EFFORT if effort is None else effort
        if wanted == self._effort:
            return
        self._collection.modify(configuration={"hnsw": {"ef_search": wanted}})
        self._effort = wanted
        self._client.close()
        self._client = self._opened()
        self._collection = self._client.get_collection(NAME, embedding_function=None)
        self.search(np.ones(self._dimension, dtype=np.float32), 1, None, None)  # reads the graph

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> Sequence[str]:  # noqa: ARG002  # prepared
        """Query with one embedding."""
        only = None if below is None else {"n": {"$lt": below.bound}}
        found = self._collection.query(query_embeddings=[embedding], n_results=top_k, where=only, include=FETCHED)
        return list(found["ids"][0])

    def search_many(self, embeddings: Embeddings, top_k: int, effort: int | None) -> Sequence[Sequence[str]]:  # noqa: ARG002  # prepared
        """Query with many embeddings at once."""
        found = self._collection.query(query_embeddings=embeddings, n_results=top_k, include=FETCHED)
        return list(found["ids"])

    def size_bytes(self) -> int | None:
        """Its folder: rows in SQLite, the graph in files."""
        return folder_bytes(self.place.folder)

    def close(self) -> None:
        """Leave the folder to whoever opens it next, such as its server."""
        self._client.close()

    def _opened(self) -> Any:
        settings = Settings(anonymized_telemetry=False)
        return chromadb.PersistentClient(path=str(self.place.folder), settings=settings)


PEER = Chroma
