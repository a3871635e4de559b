"""Round all backends, while the collection is searched and written to."""

import pytest

from tests.moving.load import Load
from tests.moving.subject import Subject

ROUTE = ("faiss", "weaviate", "pinecone", "pgvector")


@pytest.mark.usefixtures("few_queries")
def test_nothing_fails_and_nothing_is_lost(subject: Subject) -> None:
    """From pgvector round to pgvector under load: no search fails or is wrong, no write is lost or doubled."""
    load = Load(subject)
    with load.running():
        for backend in ROUTE:
            before = dict(load.rounds)
            subject.move(backend)
            subject.arrive(backend)
            subject.check_congruent(queries=2)
            assert all(load.rounds[work] > before[work] for work in before), (before, load.rounds)
    assert load.backends == ["pgvector", *ROUTE]
    subject.check_whole()
    assert subject.standing == [("pgvector", "serving"), ("faiss", "live"), ("weaviate", "live"), ("pinecone", "live")]
