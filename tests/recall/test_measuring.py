"""Measuring recall on captured queries in the background."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import pytest

from backends.corpus.database import Database
from backends.corpus.observations import measuring_lock, unmeasured
from backends.errors import CorpusUnavailable, FilterTooExpensive
from ops import recall
from ops.recall import measuring, truth
from ops.recall.measuring import Budget, Measurer, measure
from ops.recall.truth import Examiner
from retrieval import Ragstone
from tests.moving.subject import eventually
from tests.recall.asking import Asked, embeddings

DAY = timedelta(days=1)
LINE = {f"d{n}": float(n) for n in range(20)}
"""Documents at 0, 1, 2 ... on a line."""


@pytest.fixture
def line(asked: Asked) -> Asked:
    asked.put(list(LINE), [[at, 0.0] for at in LINE.values()])
    return asked


def found(*ids: str) -> dict[str, float]:
    """These ids with their scores for a query at 0."""
    return {id_: -LINE[id_] for id_ in ids}


def test_what_the_user_got_is_compared_with_the_truth(line: Asked, gentle: Database) -> None:
    """Three of the four nearest and one that is farther: recall 0.75, and a distance ratio above 1."""
    captured = line.captured([0, 0], found("d0", "d1", "d2", "d6"), top_k=4)
    measured = measure(line.rag, gentle, captured)
    assert measured.recall == 0.75
    assert measured.distance_ratio == pytest.approx((1 + 1 + 2) / 3), "d0 lies on the query, d6 is twice as far as d3"
    assert line.row(captured) == {
        "measured": True, "recall": 0.75, "distance_ratio": measured.distance_ratio, "matching": None, "band": "all",
        "short": False,
    }  # fmt: skip


def test_equally_near_chunks_are_all_right(asked: Asked, gentle: Database) -> None:
    """Of four documents at one place any two will do."""
    asked.put(["a", "b", "c", "d"], [[1.0, 0.0]] * 4)
    captured = asked.captured([0, 0], {"c": -1.0, "d": -1.0}, top_k=2)
    assert measure(asked.rag, gentle, captured).recall == 1


def test_fewer_hits_than_there_are_to_find(line: Asked, gentle: Database) -> None:
    """Three hits of five are short; three where only three match are not, and three of the truth."""
    short = line.captured([0, 0], found("d0", "d1", "d2"), top_k=5)
    measured = measure(line.rag, gentle, short)
    assert (measured.recall, measured.short) == (0.6, True)
    line.put(["x", "y", "z"], [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], [{"kind": "few"}] * 3)
    whole = line.captured([0, 0], {"x": -1.0, "y": -2.0, "z": -3.0}, top_k=5, filter={"kind": "few"})
    measured = measure(line.rag, gentle, whole)
    assert (measured.recall, measured.short, measured.matching) == (1, False, 3)


def test_nothing_to_find_is_no_recall(line: Asked, gentle: Database) -> None:
    """Where nothing matches the query counts as measured, and in no mean."""
    captured = line.captured([0, 0], {}, filter={"kind": "none"})
    assert measure(line.rag, gentle, captured).recall is None
    assert line.row(captured)["measured"]
    assert recall.history(line.rag, line.name, DAY) == []


@pytest.mark.parametrize(
    ("matching", "band"), [(2_400, "10%"), (240, "10%"), (239, "1%"), (24, "1%"), (23, "0.1%"), (2, "<0.1%")]
)
def test_the_band_is_of_what_matches(indexed: Asked, gentle: Database, matching: int, band: str) -> None:
    """Of 2,400 chunks 240 are a tenth, and one fewer is in the next band."""
    indexed.forget()
    filter = {"n": {"$lt": matching}}
    hits = indexed.collection.search(embeddings(1, 5)[0], 3, filter)
    found = {hit.id: hit.score for hit in hits}
    captured = indexed.captured(embeddings(1, 5)[0].tolist(), found, filter=filter, top_k=3)
    measured = measure(indexed.rag, gentle, captured)
    assert measured.band == band
    assert measured.matching == min(matching, 240), "counted as far as the band needs"
    assert recall.history(indexed.rag, indexed.name, DAY)[0].band == band


def test_hits_that_may_be_stale_are_searched_again(line: Asked, gentle: Database) -> None:
    """After a write the index is asked again; without one, what it gave is what counts."""
    wrong = line.captured([0, 0], found("d10", "d11"), top_k=2)
    assert measure(line.rag, gentle, wrong).recall == 0
    stale = line.captured([0, 0], found("d10", "d11"), top_k=2)
    line.put(["new"], [[0.1, 0.0]])
    assert measure(line.rag, gentle, stale).recall == 1


def test_it_is_searched_again_as_it_was(indexed: Asked, gentle: Database) -> None:
    """A stale query is asked with its own effort, whatever was tuned since: with 10, HNSW misses a quarter."""
    indexed.forget()
    low = [indexed.captured(one.tolist(), {}, effort=10, sequence=0) for one in embeddings(40, 6)]
    default = [indexed.captured(one.tolist(), {}, effort=None, sequence=0) for one in embeddings(40, 6)]
    with indexed.sql() as connection:
        connection.execute(
            """UPDATE ragstone.collection SET efforts = '{"pgvector": {"all": 1000}}' WHERE id = %s""",
            (indexed.collection.id,),
        )
    means = [np.mean([measure(indexed.rag, gentle, captured).recall for captured in group]) for group in (low, default)]
    assert 0.6 < means[0] < 0.85
    assert 0.95 < means[1] < 0.995, "1,000 would have found all"
    indexed.forget()


def test_what_was_answered_exactly_needs_no_exact_search(
    line: Asked, gentle: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exact answer is the truth, while nothing was written since."""
    monkeypatch.setattr(Examiner, "truth", lambda *_: pytest.fail("an exact search"))
    captured = line.captured([0, 0], found("d0", "d1"), top_k=2, exact=True)
    assert measure(line.rag, gentle, captured).recall == 1


def test_what_cannot_be_measured_is_not_tried_for_ever(
    line: Asked, gentle: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another index's stale answer, a truth that takes too long and a fault of ours count as measured, without one."""
    stale = line.captured([0, 0], found("d0"), top_k=1, backend="faiss", sequence=0)
    measure(line.rag, gentle, stale)
    slow = line.captured([0, 0], found("d0"), top_k=1)
    with monkeypatch.context() as patch:
        patch.setattr(Examiner, "truth", _raising(FilterTooExpensive("too long")))
        measure(line.rag, gentle, slow)
        patch.setattr(Examiner, "truth", _raising(ZeroDivisionError()))
        broken = line.captured([0, 0], found("d0"), top_k=1)
        measure(line.rag, gentle, broken)
    for captured in (stale, slow, broken):
        row = line.row(captured)
        assert row["measured"]
        assert row["recall"] is row["band"] is None


def test_while_the_corpus_is_away_nothing_is_settled(
    line: Asked, gentle: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that could not be measured because PostgreSQL was away is measured later."""
    captured = line.captured([0, 0], found("d0"), top_k=1)
    monkeypatch.setattr(Examiner, "truth", _raising(CorpusUnavailable("away")))
    with pytest.raises(CorpusUnavailable):
        measure(line.rag, gentle, captured)
    assert not line.row(captured)["measured"]


def test_a_filter_that_cannot_be_counted_is_too_expensive(
    line: Asked, gentle: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its band would be made up."""
    monkeypatch.setattr(truth, "count_matching", lambda *_: None)
    captured = line.captured([0, 0], found("d0"), top_k=1, filter={"kind": {"$ne": "x"}})
    assert measure(line.rag, gentle, captured).band is None


def test_an_inner_product_has_no_distance_ratio(rag: Ragstone, gentle: Database, name: str) -> None:
    """It is no distance: recall is measured, and the ratio left open."""
    asked = Asked(rag, rag.create_collection(name, dimension=2, metric="inner_product"))
    asked.put(["a", "b"], [[1.0, 0.0], [2.0, 0.0]])
    measured = measure(rag, gentle, asked.captured([1, 0], {"b": 2.0}, top_k=1))
    assert (measured.recall, measured.distance_ratio) == (1, None)
    assert recall.history(rag, name, DAY)[0].distance_ratio is None
    rag.delete_collection(name)


def test_collections_take_turns_the_newest_first(rag: Ragstone, asked: Asked, name: str) -> None:
    """A collection that is asked a lot does not keep the others waiting."""
    other = Asked(rag, rag.create_collection(f"{name}.other", dimension=2))
    with asked.sql() as connection:
        connection.execute("DELETE FROM ragstone.captured_query")
    busy = [asked.captured([n, 1], {}).id for n in range(5)]
    quiet = [other.captured([n, 1], {}).id for n in range(2)]
    turns = [captured.id for captured in unmeasured(rag.database, 6)]
    assert turns == [quiet[1], busy[4], quiet[0], busy[3], busy[2], busy[1]]
    rag.delete_collection(other.name)


def test_a_budget_of_seconds_is_kept() -> None:
    """Pieces of half a second and one of 20, in an hour with 3 s a minute: no more than that, and nearly that."""
    now_s = 0.0
    budget = Budget(3.0, clock=lambda: now_s)
    spent_s = 0.0
    pieces = iter([0.5] * 20 + [20.0] + [0.5] * 10_000)
    while now_s < 3_600:
        now_s += budget.pause_s()
        piece_s = next(pieces)
        now_s += piece_s
        spent_s += piece_s
        budget.spend(piece_s)
    assert 0.95 * 180 < spent_s < 180 + 3 + 20


def test_a_quiet_budget_does_not_grow() -> None:
    """After an hour of nothing there is what ten seconds have, so that users see no burst."""
    now_s = 0.0
    budget = Budget(3.0, clock=lambda: now_s)
    now_s = 3_600.0
    budget.spend(0.4)
    assert budget.pause_s() == 0
    budget.spend(1.1)
    assert budget.pause_s() == pytest.approx(20, rel=0.02)


def test_one_process_measures_at_a_time(rag: Ragstone, url: str) -> None:
    """Who comes second is told so, and has the lock as soon as the first one is gone."""
    other = Database(url, pool_size=1)
    with measuring_lock(rag.database) as held:
        assert held is not None
        held.require()
        with measuring_lock(other) as second:
            assert second is None
    with measuring_lock(other) as free:
        assert free is not None


@contextmanager
def at_once(patch: pytest.MonkeyPatch) -> Iterator[None]:
    with patch.context() as soon:
        soon.setattr(measuring, "IDLE_S", 0.02)
        soon.setattr(measuring, "TRY_AGAIN_S", 0.02)
        yield


def test_it_runs_beside_the_service(indexed: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches are captured and measured while it runs; afterwards nobody listens, and its threads are gone."""
    indexed.forget()
    before = set(threading.enumerate())
    with at_once(monkeypatch), recall.running(indexed.rag) as capture:
        assert capture is not None
        for query in embeddings(30, 8):
            indexed.collection.search(query, 10)
        eventually(lambda: _standing(indexed) and _standing(indexed)[0].recall.queries == 30)
    (standing,) = _standing(indexed)
    assert (standing.band, standing.backend) == ("all", "pgvector")
    assert 0.9 < standing.recall.mean < 1
    assert not indexed.rag.observers
    assert {thread for thread in threading.enumerate() if "recall" in thread.name} <= before
    indexed.forget()


def test_switched_off_it_does_nothing(rag: Ragstone, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sample and a budget of 0 no thread is started, and no search is told of."""
    off = rag.settings.model_copy(update={"recall_sample": 0.0, "recall_budget_s_per_min": 0.0})
    monkeypatch.setattr(rag, "settings", off)
    before = set(threading.enumerate())
    with recall.running(rag) as capture:
        assert capture is None
        assert not rag.observers
        assert set(threading.enumerate()) <= before


def test_a_measurer_goes_on_after_the_corpus_was_away(line: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread outlives an error, and measures what has waited."""
    failing = [CorpusUnavailable("away"), RuntimeError("a fault of ours")]

    def look(_: object) -> None:
        if failing:
            raise failing.pop()

    monkeypatch.setattr(measuring.Watch, "look", look)
    monkeypatch.setattr(measuring, "WATCH_EVERY_S", 0.0)
    captured = line.captured([0, 0], found("d0"), top_k=1)
    with at_once(monkeypatch), Measurer(line.rag).running():
        eventually(lambda: line.row(captured)["recall"] == 1)


def test_the_end_does_not_wait_for_the_budget(line: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service stops at once, also while its measurer pauses."""
    for _ in range(5):
        line.captured([0, 0], found("d0"), top_k=1)
    slow = measuring.measure

    def costly(*given: object) -> object:
        time.sleep(0.05)
        return slow(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "measure", costly)
    poor = line.rag.settings.model_copy(update={"recall_budget_s_per_min": 0.01})
    monkeypatch.setattr(line.rag, "settings", poor)
    with at_once(monkeypatch), Measurer(line.rag).running():
        eventually(lambda: any(line.row(kept)["measured"] for kept in line.kept()))
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 2
    assert not all(line.row(kept)["measured"] for kept in line.kept())


def _standing(asked: Asked) -> list[recall.Standing]:
    return [one for one in recall.standings(asked.rag.database, asked.rag) if one.collection == asked.name]


def _raising(error: Exception) -> Callable[..., None]:
    def raises(*_: object) -> None:
        raise error

    return raises
