"""A small collection that is moved about, and what must be true of it wherever it is."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.base import VectorIndex
from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.indexes import IndexRow, chunk_ids, indexes_of
from backends.corpus.moves import Move, latest_moves
from ops import moving
from retrieval import Collection, Ragstone

DIMENSION = 16
TOP_K = 10
RECALL = 0.95
WITHIN_S = 60.0


@dataclass
class Subject:
    """A collection of made-up embeddings, and what was acknowledged: `kept` and `deleted`, by document id."""

    rag: Ragstone
    collection: Collection
    kept: dict[str, np.ndarray] = field(default_factory=dict)
    deleted: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.collection.name

    @property
    def state(self) -> CollectionState:
        """The collection as the corpus has it now."""
        return find_collection(self.rag.database, self.name)

    @property
    def rows(self) -> list[IndexRow]:
        """Its indexes as the corpus knows them, the serving one first."""
        return indexes_of(self.rag.database, self.collection.id)

    @property
    def standing(self) -> list[tuple[str, str]]:
        """Backend and state of each index, the serving one first."""
        return [(row.backend, "serving" if row.serving else row.state) for row in self.rows]

    @property
    def last_move(self) -> Move:
        return latest_moves(self.rag.database, self.collection.id)[0]

    def index(self) -> VectorIndex:
        """The index that serves, as `rag` has it open."""
        return self.rag.indexes.attach(self.state).index

    def put(self, ids: Iterable[str], seed: int) -> None:
        """Write documents, new or not, with embeddings that `seed` draws."""
        names = list(ids)
        embeddings = drawn(len(names), seed)
        metadata = [{"even": int(name[1:]) % 2 == 0} for name in names]
        self.collection.upsert_embeddings(names, embeddings, [f"text of {name}" for name in names], metadata)
        self.kept |= dict(zip(names, embeddings, strict=True))

    def delete(self, ids: Iterable[str]) -> None:
        names = list(ids)
        assert self.collection.delete(ids=names) == len(names)
        self.deleted |= {name: self.kept.pop(name) for name in names}

    def move(self, target: str | None) -> Move:
        """Move it, which must go well."""
        ended = moving.work_on(self.rag, moving.start(self.rag, self.name, target))
        assert ended.phase == "done", ended.problem
        return ended

    def arrive(self, backend: str) -> None:
        """Wait until the collection object, opened whenever, is answered by this backend."""
        query = drawn(1, 0)[0]
        eventually(lambda: self.collection.search_with_timings(query).backend == backend)

    def opened_by(self, rag: Ragstone) -> "Subject":
        """The same collection as another Ragstone has it."""
        return Subject(rag, rag.collection(self.name), self.kept, self.deleted)

    def check_whole(self) -> None:
        """Every acknowledged write is there once and nothing else, in the corpus and in the index, and is found."""
        assert self._documents() == set(self.kept)
        self.collection.wait_until_indexed(WITHIN_S)
        with self.rag.database.dedicated() as connection:
            in_corpus = chunk_ids(connection, self.state).tolist()
        assert len(in_corpus) == len(self.kept)
        indexed = np.concatenate(list(self.index().ids())).tolist()
        assert sorted(indexed) == in_corpus
        self.check_congruent()

    def check_congruent(self, queries: int = 10) -> None:
        """Approximate hits are the exact ones, with the exact scores, but for as many as the index may miss."""
        shares = []
        for query in drawn(queries, seed=99):
            for filter in (None, {"even": True}):
                exact = self._found(query, filter, exact=True)
                found = self._found(query, filter)
                assert len(found) == min(TOP_K, len(exact))
                assert all(abs(exact.get(id_, score) - score) < 1e-6 for id_, score in found.items())
                shares.append(len(found.keys() & exact.keys()) / max(len(exact), 1))
        assert np.mean(shares) >= RECALL

    def check_found(self, ids: Iterable[str]) -> None:
        """Asked for by its own embedding, each of these documents comes first."""
        for id_ in ids:
            assert self.collection.search(self.kept[id_], 1)[0].document_id == id_

    def _found(self, query: np.ndarray, filter: object, exact: bool = False) -> dict[str, float]:
        hits = self.collection.search(query, TOP_K, filter, exact)
        found = {hit.document_id: hit.score for hit in hits}
        assert len(found) == len(hits)
        assert not found.keys() & self.deleted.keys()
        return found

    def _documents(self) -> set[str]:
        found: list[str] = []
        while page := self.collection.documents(1_000, after=found[-1] if found else None):
            found += [document.id for document in page]
        assert len(found) == len(set(found)) == self.collection.count()
        return set(found)


def drawn(count: int, seed: int) -> np.ndarray:
    """Return float32 [count, DIMENSION], spread evenly: neighbours are no more alike than they have to be."""
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


def names(first: int, count: int) -> list[str]:
    return [f"d{number}" for number in range(first, first + count)]


def eventually(condition: Callable[[], Any], within_s: float = WITHIN_S) -> None:
    """Wait until `condition()` holds; fail where it does not within the time."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to hold"
        time.sleep(0.02)
