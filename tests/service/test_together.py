"""Searches that many clients send at once are answered together, each as if it had been alone."""

import asyncio
import time
import uuid
from collections.abc import Iterator

import httpx
import numpy as np
import psycopg
import pytest
from fastapi import FastAPI

import retrieval
from retrieval.config import load
from retrieval.observing import Observed, SearchObserved
from retrieval.service import create_app
from retrieval.service.attributing import HEADERS
from tests.corpora import random_embeddings
from tests.service.problems import problem
from tests.service.serving import database_of_its_own, served

ROWS, DIMENSION, CLIENTS, POOL_SIZE = 400, 16, 48, 4
EMBEDDINGS = random_embeddings(ROWS, DIMENSION)
IDS = [f"d{n}" for n in range(ROWS)]
Answers = list[httpx.Response]


@pytest.fixture(scope="module")
def rag(postgres_url: str) -> Iterator[retrieval.Ragstone]:
    """A corpus whose small collections get an index, too."""
    settings = load(embedding_model="hashing", index_min_chunks=100, pool_size=POOL_SIZE)
    with database_of_its_own(postgres_url, "together") as url, retrieval.open(url, settings=settings) as rag:
        yield rag


@pytest.fixture(scope="module")
def app(rag: retrieval.Ragstone) -> FastAPI:
    return create_app(rag)


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with served(app) as url:
        yield url


@pytest.fixture
def collection(rag: retrieval.Ragstone) -> retrieval.Collection:
    collection = rag.create_collection(f"c{uuid.uuid4().hex}", dimension=DIMENSION)
    collection.upsert_embeddings(IDS, EMBEDDINGS, [f"text of {id_}" for id_ in IDS], [{"n": n} for n in range(ROWS)])
    collection.wait_until_indexed(60)
    return collection


def asked(url: str, name: str, bodies: list[dict[str, object]], headers: list[dict[str, str]] | None = None) -> Answers:
    """Send a search for each body, all at once, each over a connection of its own."""

    async def every() -> Answers:
        limits = httpx.Limits(max_connections=len(bodies))
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
            path, more = f"/v1/collections/{name}/search", headers or [{}] * len(bodies)
            posts = [client.post(path, json=body, headers=own) for body, own in zip(bodies, more, strict=True)]
            return list(await asyncio.gather(*posts))

    return asyncio.run(every())


def body_for(row: int, **more: object) -> dict[str, object]:
    return {"embedding": EMBEDDINGS[row].tolist(), "top_k": 3, **more}


def statements(app: FastAPI) -> float:
    count = app.state.service.metrics.registry.get_sample_value("ragstone_searches_at_once_count")
    return float(count or 0)


def test_each_gets_its_own_answer(app: FastAPI, url: str, collection: retrieval.Collection) -> None:
    """What many ask at once is what each would find alone, and fewer statements answer it than there are searches."""
    asked(url, collection.name, [body_for(0)])  # opens the collection
    before = statements(app)
    bodies = [body_for(row) for row in range(CLIENTS)] * 4
    answers = [answer.json()["results"] for answer in asked(url, collection.name, bodies)]
    alone = [collection.search(EMBEDDINGS[row], top_k=3) for row in range(CLIENTS)] * 4
    assert [[(hit["id"], hit["score"], hit["text"]) for hit in hits] for hits in answers] == [
        [(hit.id, hit.score, hit.text) for hit in hits] for hits in alone
    ]
    assert statements(app) - before < len(bodies)


def test_different_searches_at_once(url: str, collection: retrieval.Collection) -> None:
    """Other numbers of hits, filters, exact searches and wrong ones among them disturb nobody."""
    kinds = [
        body_for(1),
        body_for(2, top_k=7),
        body_for(3, filter={"n": {"$lt": 50}}),
        body_for(4, exact=True),
        {"embedding": [1.0]},
        body_for(5, filter={"$no": 1}),
    ]
    answers = asked(url, collection.name, kinds * 8)
    for position, answer in enumerate(answers):
        body = kinds[position % len(kinds)]
        if position % len(kinds) >= 4:
            problem(answer, 422, "invalid_embedding" if "filter" not in body else "invalid_filter")
            continue
        hits = [hit["id"] for hit in answer.json()["results"]]
        assert hits[0] == IDS[position % len(kinds) + 1]
        assert len(hits) == body["top_k"]


def test_each_is_observed_for_whom_it_was(rag: retrieval.Ragstone, url: str, collection: retrieval.Collection) -> None:
    """The observers are told of every search: its own embedding, hits and tags."""
    told: list[SearchObserved] = []

    def note(observed: Observed) -> None:
        assert isinstance(observed, SearchObserved)
        told.append(observed)

    rag.observers.add(note)
    try:
        headers = [{HEADERS["tenant"]: f"tenant {row}"} for row in range(CLIENTS)]
        asked(url, collection.name, [body_for(row) for row in range(CLIENTS)], headers)
    finally:
        rag.observers.remove(note)
    assert {(one.tags.tenant, one.ids[0]) for one in told} == {(f"tenant {row}", IDS[row]) for row in range(CLIENTS)}
    assert all(one.timings_ms["total"] >= one.timings_ms["search"] > 0 for one in told)
    assert {one.effort for one in told} == {None}


def test_a_collection_that_is_deleted(rag: retrieval.Ragstone, url: str, collection: retrieval.Collection) -> None:
    """Searches in a collection that another process deleted say so, all of them, and nothing hangs."""
    bodies = [body_for(row) for row in range(CLIENTS)]
    asked(url, collection.name, bodies)
    with retrieval.open(rag.database.conninfo, settings=rag.settings) as other:
        other.delete_collection(collection.name)
    for answer in asked(url, collection.name, bodies):
        problem(answer, 404, "collection_not_found")


def test_fewer_chunks_than_hits(url: str, collection: retrieval.Collection) -> None:
    """Where there are fewer chunks than were asked for, all of them are found, at once as alone."""
    answers = asked(url, collection.name, [body_for(row, top_k=ROWS + 5) for row in range(8)])
    assert [len(answer.json()["results"]) for answer in answers] == [ROWS] * 8


def test_what_was_written_is_found(url: str, collection: retrieval.Collection) -> None:
    """An acknowledged write is found by the next searches, also by those that are answered together."""
    new = -EMBEDDINGS[:CLIENTS]
    for row in range(CLIENTS):
        collection.upsert_embeddings([f"new{row}"], new[row : row + 1], ["new"], [{}])
    bodies: list[dict[str, object]] = [{"embedding": embedding.tolist(), "top_k": 1} for embedding in new]
    answers = [answer.json()["results"][0]["id"] for answer in asked(url, collection.name, bodies)]
    assert np.mean([found == f"new{row}" for row, found in enumerate(answers)]) == 1


def test_filters_that_python_takes_for_equal(rag: retrieval.Ragstone, url: str) -> None:
    """Searches with a filter for 1 and for true, sent at once, are of different kinds."""
    name = f"c{uuid.uuid4().hex}"
    rag.create_collection(name, dimension=2).upsert_embeddings(
        ["one", "true"], np.ones((2, 2)), ["1", "true"], [{"v": 1}, {"v": True}]
    )
    bodies: list[dict[str, object]] = [{"embedding": [1, 1], "filter": {"v": value}} for value in (1, True)]
    answers = asked(url, name, bodies * 8)
    found = [[hit["id"] for hit in answer.json()["results"]] for answer in answers]
    assert found == [["one"], ["true"]] * 8


def test_connections_are_bounded(rag: retrieval.Ragstone, url: str, collection: retrieval.Collection) -> None:
    """However many kinds of searches come at once, the service opens no more connections than twice its pool."""
    answers = asked(url, collection.name, [body_for(1, top_k=top_k) for top_k in range(1, 80)])
    assert all(answer.status_code == 200 for answer in answers)
    with psycopg.connect(rag.database.conninfo, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchone()
    assert row is not None
    assert row[0] <= 2 * POOL_SIZE + 2  # builds and the like have their own


def test_a_search_that_takes_too_long(rag: retrieval.Ragstone, collection: retrieval.Collection) -> None:
    """A statement that its budget ended is not begun anew for each that waited for it."""
    settings = rag.settings.model_copy(update={"statement_budget_ms": 300})
    with retrieval.open(rag.database.conninfo, settings=settings) as own, served(create_app(own)) as url:
        asked(url, collection.name, [body_for(row) for row in range(4)])
        with psycopg.connect(rag.database.conninfo) as blocking:
            blocking.execute(f"LOCK TABLE ragstone.embedding_{collection.id}".encode())
            began_s = time.monotonic()
            answers = asked(url, collection.name, [body_for(row) for row in range(6)])
            took_s = time.monotonic() - began_s
        for answer in answers:
            problem(answer, 503, "filter_too_expensive")
        assert took_s < 3


def test_connections_that_are_cut(rag: retrieval.Ragstone, url: str, collection: retrieval.Collection) -> None:
    """Where PostgreSQL ended every connection, those who ask next get answers, or a 503, and soon answers alone."""
    bodies = [body_for(row) for row in range(CLIENTS)]
    asked(url, collection.name, bodies)
    with psycopg.connect(rag.database.conninfo, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    for _ in range(POOL_SIZE + 1):  # the pool's own connections were cut, too, and each is found so once
        answers = asked(url, collection.name, bodies)
        if all(answer.status_code == 200 for answer in answers):
            break
        assert all(problem(answer, 503, "corpus_unavailable") for answer in answers if answer.status_code != 200)
    assert [answer.json()["results"][0]["id"] for answer in answers] == IDS[:CLIENTS]
