"""Several searches at once find, each, what it finds alone: on every backend, under every metric."""

import numpy as np
import pytest

from backends import searching
from backends.corpus.following import bring_up_to_date, rebuild
from backends.corpus.writing import write
from backends.filters import parse
from backends.searching import Found
from backends.vectors import prepare
from tests.congruence.conftest import Subject
from tests.congruence.drawing import DIMENSION
from tests.corpora import TAIL_LIMIT, put, random_embeddings

ROWS, QUERIES = 200, 9
FILTERS: list[object] = [None, {"n": {"$lt": 120}}, {"n": {"$lt": 4}}, {"n": 1_000_000}]


@pytest.fixture
def filled(subject: Subject) -> Subject:
    """Rows that the index has, rows that came later, equally near ones among them, and some that are deleted."""
    embeddings = random_embeddings(ROWS, DIMENSION, seed=3)
    embeddings[50:60] = embeddings[49]
    ids = [f"d{n}" for n in range(ROWS)]
    metadata = [{"n": n} for n in range(ROWS)]
    put(subject.database, subject.collection, ids[:150], embeddings[:150], metadata[:150])
    if subject.index.capabilities.in_corpus:
        bring_up_to_date(subject.database, subject.collection, subject.index)
    else:
        rebuild(subject.database, subject.collection, subject.index)
    put(subject.database, subject.collection, ids[150:], embeddings[150:], metadata[150:])
    write(subject.database, subject.collection, lambda change: change.delete_documents(ids[40:45]), TAIL_LIMIT)
    return subject


def queries_of(subject: Subject, count: int) -> np.ndarray:
    return prepare(random_embeddings(count, DIMENSION, seed=4), subject.spec)


def chunks(found: list[Found]) -> list[object]:
    return [(one.hits, one.backend, one.exact) for one in found]


def test_as_each_alone(filled: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same chunks, scores and order, whether there are few hits, some, or fewer than were asked for."""
    monkeypatch.setattr(searching, "AT_ONCE", 4)  # more queries than one statement takes
    queries = queries_of(filled, QUERIES)
    for filter in map(parse, FILTERS):
        for top_k in (1, 10, ROWS + 1):
            alone = [filled.searcher.search(query, top_k, filter) for query in queries]
            assert chunks(filled.searcher.search_many(queries, top_k, filter)) == chunks(alone)
    exactly = [filled.searcher.search(query, 5, exact=True) for query in queries]
    assert chunks(filled.searcher.search_many(queries, 5, exact=True)) == chunks(exactly)
    assert filled.searcher.search_many(queries[:0], 3) == []


@pytest.mark.usefixtures("no_short_cut")
def test_filters_within_the_index(filled: Subject) -> None:
    """Also where a filter is not answered by comparing all that match."""
    queries, parsed = queries_of(filled, QUERIES), parse(FILTERS[1])
    alone = [filled.searcher.search(query, 5, parsed) for query in queries]
    assert chunks(filled.searcher.search_many(queries, 5, parsed)) == chunks(alone)
