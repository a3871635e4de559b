"""Keeping a sample of what users ask."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backends.errors import CorpusUnavailable
from ops.recall import capture as capturing
from ops.recall.capture import Capture
from retrieval import Ragstone
from retrieval.observing import AnswerObserved, SearchObserved
from tests.moving.subject import eventually
from tests.recall.asking import Asked

SQUARE = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


def observed(asked: Asked, **given: Any) -> SearchObserved:
    """A search as the retriever tells of it."""
    search = SearchObserved(
        collection=asked.state,
        backend="pgvector",
        embedding=np.array([0.5, 0.25], np.float32),
        filter=None,
        top_k=2,
        effort=None,
        ids=["a", "b"],
        scores=[-0.1, -0.2],
        timings_ms={"embed": 3.0, "search": 1.5, "corpus": 0.5},
    )
    return replace(search, **given)


def capture_of(rag: Ragstone, **given: Any) -> Capture:
    return Capture(rag.database, rag.settings.model_copy(update=given), seed=3)


@contextmanager
def observing(rag: Ragstone) -> Iterator[Capture]:
    """A capture that hears of every search while the block runs."""
    capture = capture_of(rag, recall_sample=1.0)
    with capture.running():
        rag.observers.add(capture)
        try:
            yield capture
        finally:
            rag.observers.remove(capture)


def test_a_share_is_kept_at_random(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4,000 searches about a tenth is kept, at gaps of every length: what comes every tenth time is not favoured."""
    monkeypatch.setattr(capturing, "WAITING", 4_000)
    capture = capture_of(asked.rag, recall_sample=0.1)
    one, kept = observed(asked), []
    for number in range(4_000):
        before = capture._waiting.qsize()
        capture(one)
        if capture._waiting.qsize() > before:
            kept.append(number)
    assert 320 < len(kept) < 480
    assert len(set(np.diff(kept))) > 10


def test_what_is_not_kept(asked: Asked) -> None:
    """With a share of 0 nothing is; otherwise neither errors, nor what was asked exactly, nor answers."""
    off, on = capture_of(asked.rag, recall_sample=0.0), capture_of(asked.rag, recall_sample=1.0)
    off(observed(asked))
    on(observed(asked, outcome="filter_too_expensive"))
    on(observed(asked, asked_exactly=True, exact=True))
    on(AnswerObserved(collection=asked.state, model="m", outcome="ok", timings_ms={}))
    assert off._waiting.empty()
    assert on._waiting.empty()
    assert (off.dropped, on.dropped) == (0, 0)


def test_a_request_never_waits(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody writes, what does not fit into the queue is dropped at once, and counted."""
    monkeypatch.setattr(capturing, "WAITING", 5)
    capture = capture_of(asked.rag, recall_sample=1.0)
    one = observed(asked)
    began_s = time.monotonic()
    for _ in range(100):
        capture(one)
    assert time.monotonic() - began_s < 1
    assert capture.dropped == 95


def test_a_search_is_kept_as_it_was_asked_and_answered(asked: Asked) -> None:
    """What a user's search was, and what it gave, is in the corpus a moment later: a second thread wrote it."""
    asked.put(["a", "b", "c", "d"], SQUARE, [{"even": n % 2 == 0} for n in range(4)])
    with observing(asked.rag) as capture:
        hits = asked.collection.search(np.array([0.9, 0.8], np.float32), 2, {"even": True})
        eventually(lambda: capture.captured == 1)
    (kept,) = asked.kept()
    assert kept.embedding.tolist() == pytest.approx([0.9, 0.8], abs=1e-3)
    assert (kept.filter, kept.top_k, kept.effort, kept.exact) == ({"even": True}, 2, None, True)
    assert kept.ids == [hit.id for hit in hits]
    assert kept.scores == [hit.score for hit in hits]
    assert (kept.collection, kept.backend) == (asked.name, "pgvector")


def test_a_filter_that_the_caller_changes_is_kept_as_it_was(asked: Asked) -> None:
    """The caller's own object is not read later, in another thread."""
    capture = capture_of(asked.rag, recall_sample=1.0)
    filter = {"year": 2020}
    capture(observed(asked, filter=filter))
    filter["year"] = 1999
    with capture.running():
        eventually(lambda: capture.captured == 1)
    assert asked.kept()[0].filter == {"year": 2020}


def test_what_waits_in_the_end_is_written(asked: Asked) -> None:
    """Leaving the block writes what was drawn before."""
    capture = capture_of(asked.rag, recall_sample=1.0)
    with capture.running():
        for _ in range(20):
            capture(observed(asked))
    assert len(asked.kept()) == capture.captured == 20


def test_the_newest_are_kept_up_to_the_bound(asked: Asked) -> None:
    """Of 30 queries the last 10 are left, and what is older than 30 days goes from every collection."""
    capture = capture_of(asked.rag, recall_sample=1.0, recall_kept_queries=10)
    with capture.running():
        for number in range(30):
            capture(observed(asked, top_k=number + 1))
    assert [kept.top_k for kept in asked.kept()] == list(range(30, 20, -1))
    with asked.sql() as connection:
        connection.execute(
            "UPDATE ragstone.captured_query SET captured_at = now() - interval '31 days' WHERE collection_id = %s"
            " AND top_k < 28",
            (asked.collection.id,),
        )
    with capture_of(asked.rag).running():
        pass
    assert [kept.top_k for kept in asked.kept()] == [30, 29, 28]


def test_a_collection_that_is_gone_is_no_trouble(asked: Asked) -> None:
    """What was asked of a collection that was deleted a moment ago is forgotten, and what follows is kept."""
    gone = replace(asked.state, id=999_999)
    capture = capture_of(asked.rag, recall_sample=1.0)
    with capture.running():
        capture(observed(asked, collection=gone))
        capture(observed(asked))
    assert (capture.captured, capture.dropped) == (1, 0)
    assert len(asked.kept()) == 1


def test_a_corpus_that_is_away_costs_the_sample_alone(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be written is counted, and told once; when PostgreSQL is back, the same thread goes on."""
    caplog.set_level(logging.WARNING)
    away = threading.Event()
    away.set()
    write = capturing.capture

    def flaky(*given: Any) -> int | None:
        if away.is_set():
            raise CorpusUnavailable("PostgreSQL cannot be reached: connection refused")
        return write(*given)

    monkeypatch.setattr(capturing, "capture", flaky)
    capture = capture_of(asked.rag, recall_sample=1.0)
    with capture.running():
        for _ in range(3):
            capture(observed(asked))
        eventually(lambda: capture.dropped == 3)
        assert len([line for line in caplog.messages if "captured queries are lost" in line]) == 1
        away.clear()
        capture(observed(asked))
        eventually(lambda: capture.captured == 1)


def test_the_number_kept_was_reached_before_the_search(asked: Asked) -> None:
    """A write between a search and its keeping is not hidden: the number kept is one from before both."""
    asked.put(["a"], [[0.0, 0.0]])
    capture = capture_of(asked.rag, recall_sample=1.0)
    before = asked.state
    with capture.running():
        capture(observed(asked, collection=before))
        eventually(lambda: capture.captured == 1)
        time.sleep(0.02)  # the next search begins after the number was read
        capture(observed(asked, collection=replace(before, sequence=0)))
        eventually(lambda: capture.captured == 2)
        asked.put(["b"], [[1.0, 0.0]])
        capture(observed(asked, collection=before))
        capture(observed(asked, collection=before, timings_ms={"search": 10_000.0}))
    second_late, late, quiet, first = (kept.sequence for kept in asked.kept())
    assert first == quiet == before.sequence, "nothing was written: the number is that of now"
    assert late == second_late == before.sequence, "both began before the write was seen"
