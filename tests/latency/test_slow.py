"""Slow searches are kept with the plan of their own statement: few of them, and nothing of their embeddings."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest

import retrieval
from backends.corpus import latencies
from backends.corpus.latencies import SlowSearch, slow_searches_since
from backends.errors import FilterTooExpensive
from ops.latency import slow
from ops.latency.slow import SlowSearches
from tests.acceptance.command import wait_for

ROWS = 3_000
DIMENSION = 16
EMBEDDINGS = np.random.default_rng(3).normal(size=(ROWS, DIMENSION)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors(corpus: retrieval.Ragstone) -> Iterator[retrieval.Collection]:
    """A collection with HNSW. One chunk in a hundred is of year 0, the others of year 1."""
    made = corpus.create_collection("slow", dimension=DIMENSION)
    metadata = [{"year": int(row % 100 != 0)} for row in range(ROWS)]
    made.upsert_embeddings([str(row) for row in range(ROWS)], EMBEDDINGS, ["text"] * ROWS, metadata)
    made.wait_until_indexed()
    yield made
    corpus.delete_collection("slow")


@pytest.fixture
def searches(rag: retrieval.Ragstone) -> Iterator[SlowSearches]:
    """An observer for which every search is slow; tests have it keep them."""
    observer = SlowSearches(rag)
    rag.observers.add(observer)
    yield observer
    rag.observers.remove(observer)


def kept(rag: retrieval.Ragstone) -> list[SlowSearch]:
    """Return what the corpus has."""
    return slow_searches_since(rag.database, datetime.now(UTC) - timedelta(minutes=5))


def nodes(search: SlowSearch) -> str:
    """Return the plan as text."""
    return json.dumps(search.plan, ensure_ascii=False)


def test_the_plan_is_that_of_the_search(
    rag: retrieval.Ragstone, searches: SlowSearches, vectors: retrieval.Collection
) -> None:
    """A search by HNSW shows its scan, with the filter's condition; one that compared everything shows no HNSW."""
    hnsw = f"embedding_{vectors.id}_hnsw"
    asked = (
        ({"filter": None}, True),
        ({"filter": {"year": 1}}, True),
        ({"filter": {"year": 0}}, False),
        ({"exact": True}, False),
    )
    for arguments, by_hnsw in asked:
        vectors.search(EMBEDDINGS[0], top_k=7, **arguments)  # type: ignore[arg-type]  # as a user calls it
        searches.keep()
        newest = max(kept(rag), key=lambda search: search.seen_at)
        assert (hnsw in nodes(newest)) == by_hnsw, arguments
        assert (newest.exact, newest.top_k, newest.filter) == (not by_hnsw, 7, arguments.get("filter"))
        assert newest.timings_ms.keys() == {"search", "total"}
        assert ("jsonpath" in nodes(newest)) == (newest.filter is not None)
        assert "[…]" in nodes(newest)
        assert "Actual" not in nodes(newest)  # it was not run again, which would be as slow as before
        assert not any(str(round(float(value), 3)) in nodes(newest) for value in EMBEDDINGS[0])


def test_only_the_slowest_is_kept(
    rag: retrieval.Ragstone, searches: SlowSearches, vectors: retrieval.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many slow searches in a few seconds one is explained: the slowest."""
    told = []
    rag.observers.add(told.append)
    for row in range(20):
        vectors.search(EMBEDDINGS[row])
    rag.observers.remove(told.append)
    searches.keep()
    searches.keep()
    (only,) = kept(rag)
    assert only.timings_ms["total"] == max(one.timings_ms["total"] for one in told)


def test_what_is_quick_is_not_kept(
    rag: retrieval.Ragstone, vectors: retrieval.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search below slow_query_ms leaves nothing."""
    monkeypatch.setattr(rag, "settings", rag.settings.model_copy(update={"slow_query_ms": 60_000}))
    observer = SlowSearches(rag)
    rag.observers.add(observer)
    vectors.search(EMBEDDINGS[0])
    rag.observers.remove(observer)
    observer.keep()
    assert kept(rag) == []


def test_a_search_past_its_budget_is_kept(
    rag: retrieval.Ragstone, searches: SlowSearches, vectors: retrieval.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slowest of all, which ended in an error, is kept with its outcome and the plan of what was tried."""

    def too_expensive(*_: object) -> None:
        raise FilterTooExpensive("the search took longer than its budget")

    monkeypatch.setattr(vectors._searches.route.searcher, "search", too_expensive)
    with pytest.raises(FilterTooExpensive):
        vectors.search(EMBEDDINGS[0])
    searches.keep()
    (only,) = kept(rag)
    assert only.outcome == "filter_too_expensive"
    assert "hnsw" in nodes(only)


def test_planning_has_a_budget(
    rag: retrieval.Ragstone,
    searches: SlowSearches,
    vectors: retrieval.Collection,
    sql: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where even the plan takes long, here behind a lock, the search is kept without it."""
    vectors.search(EMBEDDINGS[0])
    monkeypatch.setattr("backends.corpus.explaining.PLANNING_LIMIT_MS", 50)
    with sql.transaction():
        sql.execute(f"LOCK TABLE ragstone.embedding_{vectors.id} IN ACCESS EXCLUSIVE MODE".encode())
        began_s = time.monotonic()
        searches.keep()
        assert time.monotonic() - began_s < 5
    (only,) = kept(rag)
    assert only.plan is None
    assert "no plan" in caplog.text


def test_a_collection_that_was_deleted_leaves_nothing(rag: retrieval.Ragstone, searches: SlowSearches) -> None:
    """A slow search whose collection is gone by the time it is to be kept is dropped, one that is kept goes with it."""
    for keep_first in (True, False):
        gone = rag.create_collection("gone", dimension=2)
        gone.search([1, 0])
        if keep_first:
            searches.keep()
            assert [search.collection for search in kept(rag)] == ["gone"]
        rag.delete_collection("gone")
        searches.keep()
        assert kept(rag) == []


def test_rows_and_age_are_bounded(
    rag: retrieval.Ragstone,
    searches: SlowSearches,
    vectors: retrieval.Collection,
    sql: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No more than the newest few are kept, and none that is older than 30 days."""
    monkeypatch.setattr(latencies, "SLOW_KEPT", 3)
    for top_k in range(1, 6):
        vectors.search(EMBEDDINGS[0], top_k=top_k)
        searches.keep()
    assert sorted(search.top_k for search in kept(rag)) == [3, 4, 5]
    sql.execute("UPDATE ragstone.slow_query SET seen_at = seen_at - interval '31 days' WHERE top_k < 5")
    vectors.search(EMBEDDINGS[0], top_k=6)
    searches.keep()
    assert sql.execute("SELECT array_agg(top_k ORDER BY top_k) FROM ragstone.slow_query").fetchone() == ([5, 6],)


def test_kept_in_the_background(
    rag: retrieval.Ragstone,
    searches: SlowSearches,
    vectors: retrieval.Collection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While it runs, the first slow search is kept at once, the next not before its time, the last in the end."""
    monkeypatch.setattr(slow, "KEEP_EVERY_S", 60)
    with searches.running():
        vectors.search(EMBEDDINGS[0], top_k=1)
        assert wait_for(lambda: len(kept(rag)) == 1)
        vectors.search(EMBEDDINGS[0], top_k=2)
        time.sleep(0.1)
        assert len(kept(rag)) == 1
    assert sorted(search.top_k for search in kept(rag)) == [1, 2]


def test_a_fault_does_not_end_it(
    rag: retrieval.Ragstone,
    searches: SlowSearches,
    vectors: retrieval.Collection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A slow search that cannot be kept is logged, and the next one is kept."""
    monkeypatch.setattr(slow, "KEEP_EVERY_S", 0.01)
    really_add, failures = slow.add_slow_search, iter([ZeroDivisionError("a fault")])

    def add(*given: object, **named: object) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        really_add(*given, **named)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(slow, "add_slow_search", add)
    with searches.running():
        vectors.search(EMBEDDINGS[0], top_k=1)
        assert wait_for(lambda: "unexpected error" in caplog.text)
        vectors.search(EMBEDDINGS[0], top_k=2)
        assert wait_for(lambda: len(kept(rag)) == 1)
