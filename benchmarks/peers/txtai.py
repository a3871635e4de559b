"""txtai: an embeddings database with its content in SQLite and its index by hnswlib, asked in its SQL."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from txtai import Embeddings as Database

from benchmarks.peers.protocol import (
    HNSW_EF_CONSTRUCTION,
    HNSW_M,
    Below,
    Embeddings,
    Peer,
    Place,
    Rows,
    folder_bytes,
)

EFFORT = 40
STATEMENT = "select id, text, n, score from txtai where similar(:embedding)"
"""It has no other way to return metadata; with more conditions, it asks its index for ten times as many."""
FOLDER = "index"


class Txtai(Peer):
    """It normalises what it stores and compares by inner product, so that cosine is all there is.

    A query that is an array it takes as it is; its length changes scores, not their order.
    """

    name = "txtai"
    distributions = ("txtai", "hnswlib")
    metrics = ("cosine",)
    has_batches = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._database: Any = None

    def load(self, rows: Rows) -> None:
        """Index documents, whose embeddings its external method hands over, and save, which is how they are kept."""
        if rows.metric not in self.metrics:
            raise ValueError(f"{self.name} searches by cosine alone, not by {rows.metric}")
        self._database = Database(
            method="external",
            transform=_in_order(rows.embeddings),
            content=True,
            backend="hnsw",
            hnsw={"m": HNSW_M, "efconstruction": HNSW_EF_CONSTRUCTION, "efsearch": EFFORT},
        )
        self._database.index(_documents(rows))
        del self._database.config["transform"]  # it is done, and cannot be saved
        self._database.save(str(self.place.folder / FOLDER))

    def prepare(self, effort: int | None) -> None:
        """Change the setting that its index reads at each search."""
        self._database.config["hnsw"]["efsearch"] = EFFORT if effort is None else effort

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> Sequence[str]:  # noqa: ARG002  # prepared
        """Ask in SQL, with the embedding as the parameter that would else be a text."""
        parameters: dict[str, Any] = {"embedding": embedding}
        statement = STATEMENT
        if below is not None:
            parameters["bound"] = below.bound
            statement += " and n < :bound"
        return [row["id"] for row in self._database.search(statement, top_k, parameters=parameters)]

    def search_many(self, embeddings: Embeddings, top_k: int, effort: int | None) -> Sequence[Sequence[str]]:  # noqa: ARG002  # prepared
        """Ask for many at once."""
        parameters = [{"embedding": embedding} for embedding in embeddings]
        found = self._database.batchsearch([STATEMENT] * len(embeddings), top_k, parameters=parameters)
        return [[row["id"] for row in one] for one in found]

    def size_bytes(self) -> int | None:
        """What it saved: the content and the graph."""
        return folder_bytes(self.place.folder / FOLDER)

    def close(self) -> None:
        """Close its content."""
        if self._database is not None:
            self._database.close()


def _documents(rows: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
    for id_, text, number in zip(rows.ids, rows.texts, rows.numbers.tolist(), strict=True):
        yield id_, {"text": text, "n": number}


def _in_order(embeddings: Embeddings) -> Any:
    """A function that takes the next texts and returns their embeddings."""
    position = 0

    def embedded(texts: list[str]) -> Embeddings:
        nonlocal position
        position += len(texts)
        return np.ascontiguousarray(embeddings[position - len(texts) : position])

    return embedded


PEER = Txtai
