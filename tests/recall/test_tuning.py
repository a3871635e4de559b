"""Finding the least effort that reaches a recall, and setting it."""

from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.corpus.database import Database
from backends.errors import Conflict, InvalidInput, Unsupported
from backends.filters import parse
from backends.types import IndexStats
from backends.vectors import prepare
from ops import moving, recall
from ops.recall import questions
from ops.recall import steps as stepping
from ops.recall.knobs import Knob, knob_of
from ops.recall.steps import Examined, examine, split
from ops.recall.truth import Examiner, Question, Truth
from retrieval.observing import Observed, SearchObserved
from tests.moving.subject import eventually
from tests.recall.asking import DIMENSION, Asked, embeddings

TARGET = 0.95
COUNT = 400
FEW = 120


@pytest.fixture
def captured(indexed: Asked) -> Iterator[Asked]:
    """400 captured queries without a filter."""
    indexed.forget()
    indexed.captured_all(embeddings(COUNT, seed=2))
    yield indexed
    indexed.forget()


def recalls_by_effort(asked: Asked, gentle: Database, queries: np.ndarray, efforts: list[int]) -> dict[int, float]:
    """What each effort finds of queries that were not used for tuning."""
    examiner = Examiner(asked.rag, gentle, asked.state)
    questions = [Question(embedding=one, filter=None, top_k=10) for one in prepare(queries, asked.state.spec)]
    examined = examine(examiner, questions, float("inf"))
    found = {}
    for effort in efforts:
        step = stepping.try_effort(
            examiner, examined, effort, lambda question, effort=effort: examiner.found_untuned(question, effort)
        )
        found[effort] = step.recall.mean
    return found


def test_the_least_effort_that_reaches_the_target(captured: Asked, gentle: Database, queries: np.ndarray) -> None:
    """It reaches the target on other queries too, at most one step above the least that does; searches take it."""
    (found,) = recall.tune(captured.rag, captured.name, TARGET, count=COUNT)
    assert (found.band, found.knob, found.drawn, found.problem) == ("all", "ef_search", 0, None)
    assert found.queries == COUNT * 3 // 4
    assert found.checked is not None
    assert found.checked.queries == COUNT // 4
    assert found.applied
    assert found.effort is not None
    ladder = Knob(name="", least=10, most=1_000).ladder()
    unseen = recalls_by_effort(captured, gentle, queries, ladder[: ladder.index(found.effort) + 1])
    assert unseen[found.effort] >= TARGET
    least = next(effort for effort in ladder if unseen[effort] >= TARGET)
    assert ladder.index(found.effort) - ladder.index(least) <= 1
    assert captured.state.efforts == {"pgvector": {"all": found.effort}}
    eventually(lambda: found.effort in _efforts_of(captured, queries[0]))


def test_the_ladder_is_climbed_no_further_than_is_of_use(captured: Asked) -> None:
    """It ends two steps above the first that meets the target, and every step says what it takes."""
    (found,) = recall.tune(captured.rag, captured.name, 0.8, count=FEW, dry_run=True)
    assert found.chosen is not None
    assert found.steps.index(found.chosen) == len(found.steps) - 3
    assert [step.effort for step in found.steps][:4] == [10, 14, 20, 28]
    assert all(0 < step.p50_ms <= step.p95_ms for step in [found.now, *found.steps])
    assert found.steps[0].recall.mean < 0.85 < found.steps[-1].recall.mean
    assert (found.now.effort, found.applied) == (None, False)


def test_trying_out_sets_nothing(captured: Asked) -> None:
    """With dry_run the collection is left as it is, and nothing is watched."""
    (found,) = recall.tune(captured.rag, captured.name, 0.8, count=FEW, dry_run=True)
    assert found.effort is not None
    assert captured.state.efforts == {}
    with captured.sql() as connection:
        assert connection.execute("SELECT count(*) FROM ragstone.tuning").fetchone() == (0,)


def test_tuning_again_changes_nothing(captured: Asked) -> None:
    """The effort that searches take already is not set anew; what was there before is remembered."""
    (first,) = recall.tune(captured.rag, captured.name, 0.8, count=FEW)
    (second,) = recall.tune(captured.rag, captured.name, 0.8, count=FEW)
    assert second.effort == second.now.effort == first.effort
    assert (first.applied, second.applied) == (True, False)


def test_what_the_others_say_can_stop_it(captured: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """An effort that fails on the queries kept for checking is not set."""
    whole = stepping.summary

    def only_of_many(recalls: list[float]) -> recall.RecallSummary:
        return whole(recalls if len(recalls) > 60 else [0.5] * len(recalls))

    monkeypatch.setattr(stepping, "summary", only_of_many)
    (found,) = recall.tune(captured.rag, captured.name, 0.8, count=FEW)
    assert found.chosen is not None
    assert found.problem == "on 30 other queries it finds 0.5000 alone: it is not set"
    assert (found.applied, captured.state.efforts) == (False, {})


def test_without_captured_queries_drawn_ones_are_asked_and_it_says_so(indexed: Asked) -> None:
    """All queries are drawn then, of stored embeddings; nothing is captured for it."""
    indexed.forget()
    (found,) = recall.tune(indexed.rag, indexed.name, 0.8, count=FEW, dry_run=True)
    assert found.drawn == found.queries == 90
    assert found.effort is not None
    assert indexed.kept() == []


def test_made_up_queries_are_asked_as_users_ask(indexed: Asked) -> None:
    """With a filter they take the embeddings of other captured queries, each once; what is left is drawn."""
    like = [Question(embedding=np.ones(DIMENSION, np.float32), filter=parse({"n": n}), top_k=3 + n) for n in range(2)]
    others = [Question(embedding=one, filter=None, top_k=10) for one in embeddings(4, seed=5)]
    made = questions.made_up(indexed.rag.database, indexed.state, 7, like, [*others, *others, *like])
    assert all(one.drawn for one in made)
    assert [(one.filter, one.top_k) for one in made[:4]] == [(one.filter, one.top_k) for one in [*like, *like]]
    assert np.array_equal([one.embedding for one in made[:4]], [one.embedding for one in others])
    assert len({one.embedding.tobytes() for one in made}) == 7
    assert {one.filter for one in made} == {one.filter for one in like}


def test_too_few_queries_show_nothing(captured: Asked) -> None:
    """It says how many it takes, and sets nothing."""
    (found,) = recall.tune(captured.rag, captured.name, 0.999, count=60)
    assert found.problem == "45 queries are too few to show a recall of 0.999: it takes 3000"
    assert (found.steps, found.applied) == ([], False)


def test_a_band_that_is_answered_exactly_has_no_effort(captured: Asked) -> None:
    """Where little matches every match is compared; a band that nobody asked for cannot be tuned."""
    captured.captured_all(embeddings(20, seed=3), filter={"n": {"$lt": 60}})
    (found,) = recall.tune(captured.rag, captured.name, TARGET, band="1%")
    assert (found.queries, found.drawn) == (20, 0)
    assert found.problem == "they are answered exactly: no effort is at work"
    both = recall.tune(captured.rag, captured.name, 0.8, count=FEW, dry_run=True)
    assert [one.band for one in both] == ["all", "1%"]
    with pytest.raises(Conflict, match=r"no captured query of 'indexed' has a filter in band 0.1%"):
        recall.tune(captured.rag, captured.name, TARGET, band="0.1%")


def test_a_filtered_band_is_tuned_on_its_filters(captured: Asked) -> None:
    """Where too few are captured, other captured queries take their filters: the band has an effort of its own."""
    captured.captured_all(embeddings(30, seed=4), filter={"n": {"$lt": 2_100}})
    (found,) = recall.tune(captured.rag, captured.name, 0.8, band="10%", count=FEW)
    assert (found.queries, found.problem, found.applied) == (38, None, True), (
        "three quarters of 50, no more than needed"
    )
    assert 10 < found.drawn <= 20
    assert captured.state.efforts == {"pgvector": {"10%": found.effort}}


@pytest.mark.parametrize("target", [0.0, 1.0, 1.5, -1.0])
def test_a_target_lies_between_nothing_and_everything(indexed: Asked, target: float) -> None:
    """No sample shows that nothing is ever missed."""
    with pytest.raises(InvalidInput, match="target"):
        recall.tune(indexed.rag, indexed.name, target)


def test_faiss_is_tuned_likewise(captured: Asked) -> None:
    """On FAISS's HNSW too an effort is found and set, under its own name; pgvector's stays."""
    rag = captured.rag
    recall.tune(rag, captured.name, 0.8, count=FEW)
    on_pgvector = captured.state.efforts["pgvector"]
    ended = moving.work_on(rag, moving.start(rag, captured.name, "faiss"))
    assert ended.phase == "done", ended.problem
    try:
        (found,) = recall.tune(rag, captured.name, 0.9, count=FEW)
        assert (found.knob, found.problem, found.steps[0].effort) == ("ef_search", None, 20)
        assert captured.state.efforts == {"pgvector": on_pgvector, "faiss": {"all": found.effort}}
    finally:
        moving.rollback(rag, captured.name)
        moving.drop_old(rag, 0, captured.name)
        eventually(lambda: captured.collection.search_with_timings(embeddings(1, 0)[0]).backend == "pgvector")


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("weaviate", "", "its class has ef"),
        ("pinecone", "", "chooses it itself"),
        ("memory", "", "compares every embedding"),
        ("faiss", "flat", "of kind flat compares every embedding"),
    ],
)
def test_backends_without_an_effort_say_so(name: str, kind: str, reason: str) -> None:
    """There is nothing to tune, and the error says why."""
    with pytest.raises(Unsupported, match=reason):
        knob_of(index_of(name, kind), 10, 50_000)


def index_of(name: str, kind: str, rough: bool = True):  # an index as far as its effort goes
    stats = IndexStats(count=50_000, applied=1, size_bytes=1, ready=True, details={"kind": kind})
    return SimpleNamespace(name=name, stats=lambda: stats, is_rough=rough)


def test_the_efforts_that_make_a_difference() -> None:
    """Below top_k pgvector takes top_k; FAISS's HNSW looks at as many as it is asked for; IVF counts lists."""
    assert knob_of(index_of("pgvector", ""), 25, 50_000) == Knob(name="ef_search", least=25, most=1_000)
    assert knob_of(index_of("faiss", "hnsw"), 5, 50_000) == Knob(name="ef_search", least=40, most=4_096)
    assert knob_of(index_of("faiss", "flat+hnsw"), 100, 50_000).least == 400
    assert knob_of(index_of("faiss", "hnsw", rough=False), 5, 50_000).least == 15
    assert knob_of(index_of("faiss", "flat+hnsw", rough=False), 100, 50_000).least == 150
    assert knob_of(index_of("faiss", "ivf_sq8"), 10, 50_000) == Knob(name="nprobe", least=1, most=894)


@given(st.integers(1, 1_000), st.integers(0, 5_000))
def test_a_ladder_goes_up_in_even_steps(least: int, more: int) -> None:
    """From the least to the most, each step above the one before, and about 1.4 times as much where numbers allow."""
    ladder = Knob(name="", least=least, most=least + more).ladder()
    assert (ladder[0], ladder[-1]) == (least, least + more)
    for low, high in pairwise(ladder[:-1]):
        assert low < high <= max(1.45 * low + 1, low + 1)
    assert len(ladder) < 30


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.integers(0, 5))
def test_nothing_is_on_both_sides(asked: list[int], seed: int) -> None:
    """A query that was asked several times is used for tuning or for checking, and none is lost."""
    made = [
        Examined(
            Question(embedding=np.full(2, one, np.float32), filter=None, top_k=1),
            Truth(scores=[1.0], matching=None, band="all"),
        )
        for one in asked
    ]
    tuning, checking = (
        [float(one.question.embedding[0]) for one in side] for side in split(made, seed)
    )  # fmt: skip
    assert not set(tuning) & set(checking)
    assert sorted(tuning + checking) == sorted(asked)


def _efforts_of(asked: Asked, query: np.ndarray) -> list[int | None]:
    """What a user's search takes."""
    seen: list[Observed] = []
    asked.rag.observers.add(seen.append)
    try:
        asked.collection.search(query, 10)
    finally:
        asked.rag.observers.remove(seen.append)
    return [one.effort for one in seen if isinstance(one, SearchObserved)]
