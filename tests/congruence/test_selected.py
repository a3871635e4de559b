"""Filters whose matching chunks are remembered: what is written, changed and deleted afterwards counts at once."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from backends import searching
from backends.corpus import search
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.writing import forget_changes, write
from backends.filters import Filter, parse
from backends.hits import Hit
from backends.pgvector import MAX_SCAN_TUPLES, PgvectorIndex
from backends.searching import Searcher
from backends.types import IndexSpec
from backends.vectors import prepare
from retrieval.placement import open_index
from tests.corpora import TAIL_LIMIT, made_collection, put, searcher
from tests.stores import Stores

SPEC = IndexSpec(dimension=8, metric="l2")
COUNT, TOP_K = 300, 10
QUERY = prepare(np.zeros((1, 8)), SPEC)[0]
Reads = list[Filter]


class Subject:
    """A collection with HNSW, and one searcher of it that remembers."""

    def __init__(self, database: Database, collection: CollectionState, index: PgvectorIndex) -> None:
        self.database, self.collection = database, collection
        self.searcher: Searcher = searcher(database, collection, index)

    def put(self, ids: list[str], embeddings: np.ndarray, kept: bool = True) -> None:
        put(self.database, self.collection, ids, embeddings, [{"kept": kept}] * len(ids))

    def found(self, kept: bool = True) -> list[str]:
        found = self.searcher.search(QUERY, TOP_K, parse({"kept": kept}))
        assert found.exact
        return [chunk.id for chunk in found.hits]


@pytest.fixture
def subject(database: Database, stores: Stores, name: str) -> Iterator[Subject]:
    """Every tenth chunk is kept; the nearer ones have the smaller numbers."""
    with made_collection(database, name, SPEC) as collection:
        ids = [f"d{n:03d}" for n in range(COUNT)]
        metadata = [{"kept": n % 10 == 0} for n in range(COUNT)]
        put(database, collection, ids, np.full((COUNT, 8), np.arange(COUNT)[:, None] + 1.0), metadata)
        index = open_index(database, collection, stores.settings("pgvector"))
        assert isinstance(index, PgvectorIndex)
        index.build()
        yield Subject(database, collection, index)
        index.drop()
        index.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Every filter whose ids were read."""
    read: Reads = []
    matching_ids = searching.matching_ids

    def noted(database: Database, collection: CollectionState, filter: Filter, *limits: int) -> object:
        read.append(filter)
        return matching_ids(database, collection, filter, *limits)

    monkeypatch.setattr(searching, "matching_ids", noted)
    return read


EXPECTED = [f"d{n:03d}" for n in range(0, 100, 10)]


def test_what_came_later_counts(subject: Subject, reads: Reads) -> None:
    """A new chunk, one that a change of metadata brings in or takes out, a deleted one; the ids are read once."""
    assert subject.found() == EXPECTED
    subject.put(["new"], np.zeros((1, 8), np.float32))
    assert subject.found() == ["new", *EXPECTED[:-1]]
    change = {"d001": '{"kept": true}', "d010": '{"kept": false}'}
    write(subject.database, subject.collection, lambda transaction: transaction.replace_metadata(change), TAIL_LIMIT)
    assert subject.found() == ["new", "d000", "d001", *EXPECTED[2:-1]]
    write(subject.database, subject.collection, lambda change: change.delete_documents(["new", "d020"]), TAIL_LIMIT)
    assert subject.found() == ["d000", "d001", *EXPECTED[3:], "d100"]
    assert len(reads) == 1


def test_changes_that_are_forgotten_are_read_again(subject: Subject, reads: Reads) -> None:
    """What came later cannot be told any more: the ids are read anew, and last again."""
    subject.found()
    subject.put(["new"], np.zeros((1, 8), np.float32))
    forget_changes(subject.database, subject.collection.id)
    for _ in range(3):
        assert subject.found() == ["new", *EXPECTED[:-1]]
    assert len(reads) == 2


def test_much_that_came_later_is_read_again(subject: Subject, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a search can look through beside: the ids are read anew."""
    monkeypatch.setattr(search, "LATER_CHUNKS", 20)
    subject.found()
    subject.put([f"few{n}" for n in range(20)], np.zeros((20, 8), np.float32), kept=False)
    assert subject.found() == EXPECTED
    assert len(reads) == 1
    subject.put(["one more"], np.zeros((1, 8), np.float32))
    for _ in range(3):
        assert subject.found() == ["one more", *EXPECTED[:-1]]
    assert len(reads) == 2


def test_fewer_match_than_are_wanted(subject: Subject) -> None:
    """All of them are found, and none where none is left."""
    write(subject.database, subject.collection, lambda change: change.delete_documents(EXPECTED), TAIL_LIMIT)
    wanted = [f"d{n}" for n in range(100, 300, 10)]
    assert subject.found() == wanted[:TOP_K]
    write(subject.database, subject.collection, lambda change: change.delete_documents(wanted[4:]), TAIL_LIMIT)
    assert subject.found() == wanted[:4]
    write(subject.database, subject.collection, lambda change: change.delete_documents(wanted[:4]), TAIL_LIMIT)
    assert subject.found() == []


def test_ties_are_settled_by_id(subject: Subject) -> None:
    """Of equally near chunks the bytewise first ids are found, known ones and later ones alike."""
    subject.found()
    subject.put([f"b{n}" for n in range(8)], np.ones((8, 8), np.float32))
    subject.put([f"a{n}" for n in range(8)], np.ones((8, 8), np.float32))
    assert subject.found() == [*(f"a{n}" for n in range(8)), "b0", "b1"]


def test_a_filter_that_matches_nothing_near_the_query(
    database: Database, stores: Stores, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HNSW is not let scan on and on: what it proposes first holds none that match, so all that match are compared."""
    monkeypatch.setattr(searching, "COMPARED_PER_PROPOSAL", 0)
    monkeypatch.setattr(searching, "EXACT_BELOW", 100)
    asked: list[int] = []
    nearest: Callable[..., list[Hit]] = PgvectorIndex.nearest

    def noted(index: PgvectorIndex, *given: object) -> list[Hit]:
        asked.append(given[-1])  # type: ignore[arg-type]  # the proposals
        return nearest(index, *given)

    monkeypatch.setattr(PgvectorIndex, "nearest", noted)
    points = np.full((COUNT, 8), np.arange(COUNT)[:, None] + 1.0)
    with made_collection(database, name, SPEC) as collection:
        metadata = [{"rank": rank} for rank in range(COUNT)]
        put(database, collection, [f"d{rank:03d}" for rank in range(COUNT)], points, metadata)
        index = open_index(database, collection, stores.settings("pgvector"))
        index.build((), 0)
        remembering = searcher(database, collection, index)
        for _ in range(8):
            found = remembering.search(QUERY, TOP_K, parse({"rank": {"$gte": COUNT // 2}}))
            assert [chunk.id for chunk in found.hits] == [f"d{rank}" for rank in range(150, 160)]
        assert asked == [MAX_SCAN_TUPLES, 33, 33, 33]  # the first search, the second, the fourth and the eighth
        index.drop()
        index.close()


def test_filters_that_python_takes_for_equal(database: Database, stores: Stores, name: str) -> None:
    """What is remembered of a filter for 1 is not taken for one for true, nor the other way round."""
    with made_collection(database, name, SPEC) as collection:
        put(database, collection, ["one", "true"], np.ones((2, 8)), [{"v": 1}, {"v": True}])
        index = open_index(database, collection, stores.settings("pgvector"))
        assert isinstance(index, PgvectorIndex)
        index.build()
        asked = searcher(database, collection, index)
        for value, id_ in ((1, "one"), (True, "true"), (1, "one"), (1.0, "one")):
            assert [hit.id for hit in asked.search(QUERY, TOP_K, parse({"v": value})).hits] == [id_]
        index.drop()
        index.close()
