"""What was written a moment ago is looked at beside HNSW, and only as long as it may have been written so lately."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from backends import pgvector, searching
from backends.corpus import search
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.explaining import ExplainingDatabase
from backends.filters import parse
from backends.pgvector import PgvectorIndex
from backends.searching import Searcher
from backends.types import IndexSpec
from backends.vectors import prepare
from retrieval.placement import open_index
from tests.corpora import made_collection, put, random_embeddings, searcher
from tests.stores import Stores

SPEC = IndexSpec(dimension=8)
EMBEDDINGS = random_embeddings(200, 8)
QUERIES = prepare(EMBEDDINGS[:5], SPEC)
RECENT, PLAIN = "nearest_and_recent", "nearest"
Names = list[str]


class Subject:
    """A collection with HNSW, what searches it, and the names of the statements that it ran."""

    def __init__(self, database: Database, collection: CollectionState, index: PgvectorIndex) -> None:
        self.database, self.collection, self.index = database, collection, index
        self.searcher: Searcher = searcher(database, collection, index)

    def put(self, id_: str) -> None:
        """What another process would write: this one's index is not told."""
        put(self.database, self.collection, [id_], -EMBEDDINGS[:1])

    def rest(self) -> None:
        """Let the last change be a minute old."""
        with self.database.connection() as connection:
            connection.execute(
                "UPDATE ragstone.change SET committed_at = now() - interval '1 minute' WHERE collection_id = %s",
                (self.collection.id,),
            )

    def found(self) -> list[str]:
        return [hit.id for hit in self.searcher.search(prepare(-EMBEDDINGS[:1], SPEC)[0], 3).hits]


@pytest.fixture
def subject(database: Database, stores: Stores, name: str) -> Iterator[Subject]:
    with made_collection(database, name, SPEC) as collection:
        put(database, collection, [f"d{n}" for n in range(len(EMBEDDINGS))], EMBEDDINGS)
        index = open_index(database, collection, stores.settings("pgvector"))
        assert isinstance(index, PgvectorIndex)
        index.build()
        yield Subject(database, collection, index)
        index.drop()
        index.close()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The names of the statements that searches ran."""
    names: Names = []
    for function in ("run_nearest", "run_many"):
        original = getattr(pgvector, function)

        def noted(*given: object, original: object = original, **values: object) -> object:
            names.append(str(given[2]))
            return original(*given, **values)  # type: ignore[operator]  # one of the two functions

        monkeypatch.setattr(pgvector, function, noted)
    return names


def test_lately_every_search_looks_at_what_is_recent(subject: Subject, ran: Names) -> None:
    """Within ten seconds of a small change HNSW alone is not trusted."""
    subject.put("new")
    for _ in range(3):
        assert subject.found()[0] == "new"
    assert ran == [RECENT] * 3


def test_later_the_index_alone_answers(subject: Subject, ran: Names) -> None:
    """Afterwards what is recent is not looked for, until a search sees that something was written: it is done again."""
    subject.rest()
    subject.found()
    subject.found()
    assert ran == [RECENT, PLAIN]
    subject.put("new")
    assert subject.found()[0] == "new"
    assert ran == [RECENT, PLAIN, PLAIN, RECENT]
    subject.found()
    assert ran[-1] == RECENT
    subject.rest()
    subject.found()
    subject.found()
    assert ran[-2:] == [RECENT, PLAIN]


def test_many_at_once_see_it_too(subject: Subject, ran: Names) -> None:
    """One statement for many searches knows as much as one for each."""
    subject.rest()
    subject.searcher.search_many(QUERIES, 3)
    subject.searcher.search_many(QUERIES, 3)
    subject.put("new")
    subject.searcher.search_many(QUERIES, 3)
    assert ran == [RECENT, PLAIN, PLAIN, RECENT]


def test_filters_see_it_too(subject: Subject, ran: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is where a filter is answered by HNSW."""
    monkeypatch.setattr(searching, "COMPARED_PER_PROPOSAL", 0)
    filter = parse({"absent": {"$exists": False}})
    subject.rest()
    for _ in range(2):
        subject.searcher.search(QUERIES[0], 3, filter)
    assert ran == ["nearest_filtered_and_recent", "nearest_filtered"]


def test_planned_searches_that_saw_a_change_are_done_again(subject: Subject) -> None:
    """Who runs a statement himself is told that it did not look at what is recent."""
    subject.rest()
    subject.found()
    assert subject.index.ready
    planned = subject.searcher.planned(QUERIES, 3)
    assert planned is not None
    assert planned.settled is not None
    subject.put("new")
    rows = subject.database.rows(planned.text, planned.values, planned.settings)
    assert subject.searcher.found(planned, rows, 3) is None


@pytest.mark.parametrize("filter", [None, {"absent": {"$exists": False}}], ids=["all", "filtered"])
def test_proposals_are_compared_without_hnsw(subject: Subject, filter: object) -> None:
    """What another index proposes is looked up by id, also while the HNSW from before a move is still there."""
    explaining = ExplainingDatabase(subject.database)
    given = {"top_k": 10, "applied": 1, "filter": parse(filter)}
    ids = np.arange(40, dtype=np.int64)
    search.join_candidates(explaining, subject.collection, QUERIES[0], {}, ids=ids, **given)
    search.join_candidates_of_many(explaining, subject.collection, QUERIES, {}, ids=[ids] * len(QUERIES), **given)
    assert len(explaining.plans) == 2
    for plan in explaining.plans:
        assert "hnsw" not in json.dumps(plan)
