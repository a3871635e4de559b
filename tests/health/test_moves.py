"""Moves that fail or stand still, and indexes that they leave behind."""

from collections.abc import Iterator

import pytest

import retrieval
from backends.corpus import moves as corpus_moves
from backends.corpus.indexes import begin_index
from ops import moving
from ops.health import moves
from ops.health.check import Check
from ops.moving import verification
from retrieval import Ragstone
from retrieval.config import load
from tests.health.watched import Watched, corpus_of_its_own, made_in

LATE = "UPDATE ragstone.vector_index SET changed_at = now() - interval '2 days' WHERE NOT serving"


@pytest.fixture(scope="module")
def rag(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ragstone]:
    settings = load(embedding_model="hashing", index_folder=str(tmp_path_factory.mktemp("indexes")))
    with corpus_of_its_own(postgres_url, "health_moves") as url, retrieval.open(url, settings=settings) as rag:
        yield rag


@pytest.fixture
def subject(rag: Ragstone) -> Iterator[Watched]:
    """A collection on pgvector that has not been moved yet."""
    yield made_in(rag, count=60)
    rag.delete_collection("handbook")


def found(subject: Watched, function: object) -> Check:
    return next(iter(subject.look(function).values()))  # type: ignore[arg-type]


def moved(subject: Watched) -> None:
    """Move it, and keep the index before."""
    move = moving.work_on(subject.rag, moving.start(subject.rag, subject.name, "faiss"))
    assert move.phase == "done", move.problem


def test_a_move_that_failed(subject: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move whose index had no recall is a warning with the reason, until one succeeds."""
    assert subject.look(moves.move) == {}
    with monkeypatch.context() as patch:
        patch.setattr(verification, "recall_at_k", lambda *_: 0.0)
        moving.work_on(subject.rag, moving.start(subject.rag, subject.name, "faiss"))
    check = found(subject, moves.move)
    assert (check.level, check.backend, "recall@10 is 0.000" in check.detail) == ("warn", "faiss", True)
    assert moves.FIXES["move"](subject.rag, check) is None  # what is wrong must be mended first
    moved(subject)
    assert subject.level(moves.move) == "ok"


def test_a_move_that_nobody_works_on(subject: Watched) -> None:
    """It is critical once it has stood still for a while; the fix goes on with it."""
    moving.start(subject.rag, subject.name, "faiss")
    assert subject.level(moves.move) == "ok"
    subject.execute("UPDATE ragstone.move SET updated_at = now() - interval '10 minutes'")
    check = found(subject, moves.move)
    assert (check.level, "nobody works on it" in check.detail) == ("crit", True)
    subject.mend(moves.move)
    assert subject.level(moves.move) == "ok"
    assert subject.state.backend == "faiss"


def test_a_move_whose_worker_says_nothing(subject: Watched) -> None:
    """A worker may be quiet for longer, while FAISS trains, but not for hours."""
    move = moving.start(subject.rag, subject.name, "faiss")
    with subject.rag.database.dedicated() as connection:
        assert corpus_moves.lock_move(connection, move)
        for hours, level in ((0.5, "ok"), (2.0, "crit")):
            subject.execute("UPDATE ragstone.move SET updated_at = now() - make_interval(mins => %s)", int(60 * hours))
            assert subject.level(moves.move) == level
        assert moves.FIXES["move"](subject.rag, found(subject, moves.move)) is None  # somebody works on it


def test_a_move_that_begins_again_and_again(subject: Watched) -> None:
    """Many tries are a warning that says what the last one met."""
    move = moving.start(subject.rag, subject.name, "faiss")
    for _ in range(moves.MANY_TRIES + 1):
        corpus_moves.count_try(subject.rag.database, move)
    corpus_moves.note_problem(subject.rag.database, move, "the store is away")
    check = found(subject, moves.move)
    assert (check.level, check.value, "the store is away" in check.detail) == ("warn", 6.0, True)
    moving.work_on(subject.rag, move)
    assert subject.level(moves.move) == "ok"


def test_an_old_index_goes_in_two_steps(subject: Watched) -> None:
    """One that is kept for too long is a warning, as is one that was to go and has not; the fixes end both."""
    moved(subject)
    assert subject.level(moves.old_index) == subject.level(moves.index_dropping) == "ok"
    subject.execute(LATE)
    check = found(subject, moves.old_index)
    assert (check.level, check.backend) == ("warn", "pgvector")
    assert check.value == pytest.approx(86_400, abs=60)
    subject.mend(moves.old_index)
    assert subject.level(moves.old_index) == subject.level(moves.index_dropping) == "ok"
    subject.execute(LATE)
    check = found(subject, moves.index_dropping)
    assert (check.level, check.backend) == ("warn", "pgvector")
    subject.mend(moves.index_dropping)
    assert subject.level(moves.index_dropping) == "ok"
    assert [row.backend for row in subject.subject.rows] == ["faiss"]


def test_an_index_that_was_left_half_built(subject: Watched) -> None:
    """Without a move that builds it, it is a warning; while one does, it is none."""
    begin_index(subject.rag.database, subject.state.id, "faiss", follows=True)
    subject.execute(LATE)
    move = moving.start(subject.rag, subject.name, "faiss")
    assert subject.level(moves.index_unfinished) == "ok"
    corpus_moves.end_move(subject.rag.database, move, "cancelled", None)
    check = found(subject, moves.index_unfinished)
    assert (check.level, check.backend) == ("warn", "faiss")
    subject.mend(moves.index_unfinished)
    assert subject.level(moves.index_unfinished) == "ok"
    moving.drop_old(subject.rag, 0.0)
    assert [row.backend for row in subject.subject.rows] == ["pgvector"]
