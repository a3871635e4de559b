"""Cancelling, rolling back, and what is refused meanwhile."""

from dataclasses import replace
from typing import Any

import pytest

from backends.corpus import following, moves
from backends.corpus.collections import CollectionState
from backends.corpus.indexes import record_away
from backends.errors import Conflict, InvalidInput, InvalidSettings
from backends.faiss import making
from backends.pgvector import PgvectorIndex
from ops import moving
from ops.moving import progress, verification
from ops.moving.gentle import Pace
from retrieval.placement import belongs_to, open_index
from tests.moving.subject import Subject, names

pytestmark = pytest.mark.usefixtures("few_queries", "soon")
BUILD = (Pace, "keep")
VERIFICATION = (verification, "_recall")


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are small, and after each the mover looks whether it is to stop."""
    monkeypatch.setattr(following, "ROWS_PER_BATCH", 64)
    monkeypatch.setattr(making, "ROWS_AT_ONCE", 64)
    monkeypatch.setattr(progress, "REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(verification, "KEEP_UP_S", 0.0)


@pytest.mark.parametrize(
    ("backend", "during"),
    [
        pytest.param("faiss", BUILD, id="FAISS builds"),
        pytest.param("faiss", VERIFICATION, id="FAISS is verified"),
        pytest.param("weaviate", BUILD, id="Weaviate builds"),
        pytest.param("pinecone", VERIFICATION, id="Pinecone is verified"),
    ],
)
def test_cancelled(subject: Subject, monkeypatch: pytest.MonkeyPatch, during: tuple[Any, str], backend: str) -> None:
    """A cancel during the build or the verification ends the move soon, and removes what it built."""
    calls = cancel_at(monkeypatch, subject, during, nth=2)
    move = moving.start(subject.rag, subject.name, backend)
    ended = moving.work_on(subject.rag, move)
    assert (ended.phase, ended.problem) == ("cancelled", None)
    assert len(calls) == 2
    assert subject.standing == [("pgvector", "serving")]
    left = open_index(subject.rag.database, _at(subject, ended), subject.rag.settings)
    assert not left.stats().ready
    left.close()
    assert not moving.cancel(subject.rag, subject.name)
    subject.check_whole()


def _at(subject: Subject, move: moves.Move) -> CollectionState:
    """The collection as if the move's index served it."""
    assert move.target_index_id is not None
    return replace(subject.state, backend=move.target, index_id=move.target_index_id)


def cancel_at(monkeypatch: pytest.MonkeyPatch, subject: Subject, during: tuple[Any, str], nth: int) -> list[int]:
    """Cancel the move when this function is called for the `nth` time; returns its calls."""
    owner, name = during
    calls: list[int] = []
    original = getattr(owner, name)

    def cancelling(*args: Any) -> Any:
        calls.append(len(calls) + 1)
        if len(calls) == nth:
            assert moving.cancel(subject.rag, subject.name)
        return original(*args)

    monkeypatch.setattr(owner, name, cancelling)
    return calls


def test_cancelled_while_postgres_builds(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel stops the build of HNSW in PostgreSQL, which a writer's transaction held up, and leaves none of it."""
    subject.move("faiss")
    for _ in range(2):
        moving.drop_old(subject.rag, 0, subject.name)
    monkeypatch.setattr(progress, "REPORT_EVERY_S", 0.05)
    cancel_at(monkeypatch, subject, (PgvectorIndex, "build_progress"), nth=1)
    stop = PgvectorIndex.cancel_build
    with subject.rag.database.connect() as writer:
        writer.execute("BEGIN")
        writer.execute(f"LOCK TABLE ragstone.embedding_{subject.collection.id} IN ROW EXCLUSIVE MODE".encode())

        def stopping(self: PgvectorIndex) -> None:
            stop(self)
            writer.execute("ROLLBACK")

        monkeypatch.setattr(PgvectorIndex, "cancel_build", stopping)
        ended = moving.work_on(subject.rag, moving.start(subject.rag, subject.name, "pgvector"))
    assert ended.phase == "cancelled"
    assert subject.standing == [("faiss", "serving")]
    index = open_index(subject.rag.database, _at(subject, ended), subject.rag.settings)
    assert not index.stats().ready


def test_cancelled_where_the_index_was_kept(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel of a move back to an index that still follows leaves that index as it was."""
    subject.move("faiss")
    subject.move("pgvector")
    with monkeypatch.context() as cancelling:
        cancel_at(cancelling, subject, VERIFICATION, nth=2)
        ended = moving.work_on(subject.rag, moving.start(subject.rag, subject.name, "faiss"))
    assert ended.phase == "cancelled"
    assert subject.standing == [("pgvector", "serving"), ("faiss", "live")]
    subject.put(names(300, 5), seed=2)
    assert moving.rollback(subject.rag, subject.name) == "faiss"
    subject.arrive("faiss")
    subject.check_whole()


def test_a_cancel_without_a_move_is_none(subject: Subject) -> None:
    """Where nothing is being moved, a cancel says so and changes nothing."""
    assert not moving.cancel(subject.rag, subject.name)
    subject.move("faiss")
    assert not moving.cancel(subject.rag, subject.name)
    assert subject.last_move.phase == "done"


@pytest.mark.parametrize(("source", "target"), [("pgvector", "faiss"), ("faiss", "weaviate"), ("weaviate", "pgvector")])
def test_rolled_back(subject: Subject, source: str, target: str) -> None:
    """One step back: what was written and deleted after the change-over is there, and the collection stays there."""
    if source != "pgvector":
        subject.move(source)
    subject.move(target)
    subject.arrive(target)
    subject.put(names(290, 20), seed=2)
    subject.delete(names(0, 5))
    assert moving.rollback(subject.rag, subject.name) == source
    subject.put(names(310, 5), seed=3)
    subject.check_found(names(305, 10))
    subject.arrive(source)
    subject.check_whole()
    assert subject.last_move.phase == "rolled_back"
    assert subject.state.pinned_backend == source
    assert (target, "live") in subject.standing


def test_nothing_to_go_back_to(subject: Subject) -> None:
    """Where there is no earlier index, or it was dropped, a rollback is refused with what to do instead."""
    with pytest.raises(Conflict, match="no earlier index"):
        moving.rollback(subject.rag, subject.name)
    subject.move("faiss")
    moving.drop_old(subject.rag, 0, subject.name)
    with pytest.raises(Conflict, match="no earlier index"):
        moving.rollback(subject.rag, subject.name)
    assert subject.standing[0] == ("faiss", "serving")


def test_an_index_that_is_away_cannot_serve_again(subject: Subject) -> None:
    """A rollback to an index that has stopped following is refused, and says why it is away."""
    subject.move("faiss")
    old = subject.rows[1]
    record_away(subject.rag.database, old.id, "its disk is full")
    with pytest.raises(Conflict, match="its disk is full"):
        moving.rollback(subject.rag, subject.name)
    assert subject.standing[0] == ("faiss", "serving")


def test_one_move_at_a_time(subject: Subject) -> None:
    """While a move is under way, one to elsewhere and a rollback are refused; the same one again is that one."""
    move = moving.start(subject.rag, subject.name, "faiss")
    with pytest.raises(Conflict, match="under way to faiss"):
        moving.start(subject.rag, subject.name, "weaviate")
    with pytest.raises(Conflict, match="is being moved already"):
        moves.begin_move(subject.rag.database, subject.state, "weaviate", by_hand=True)
    with pytest.raises(Conflict, match="is being moved"):
        moving.rollback(subject.rag, subject.name)
    assert moving.start(subject.rag, subject.name, "faiss").id == move.id
    assert moving.start(subject.rag, subject.name).id == move.id
    assert moving.work_on(subject.rag, move).phase == "done"


@pytest.mark.parametrize("target", ["pgvector", "memory", "nowhere"])
def test_targets_that_make_no_sense(subject: Subject, target: str) -> None:
    """A move to where it is, or to what there is not, is refused by the option's name, and nothing is written down."""
    with pytest.raises(InvalidInput) as error:
        moving.start(subject.rag, subject.name, target)
    assert error.value.field == "--to"
    assert moves.latest_moves(subject.rag.database, subject.collection.id) == []


def test_a_target_that_is_not_configured(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move to a store that nobody has configured is refused before anything begins."""
    unconfigured = subject.rag.settings.model_copy(update={"pinecone_api_key": None})
    monkeypatch.setattr(subject.rag, "settings", unconfigured)
    with pytest.raises(InvalidSettings, match="RAGSTONE_PINECONE_API_KEY"):
        moving.start(subject.rag, subject.name, "pinecone")
    assert moves.latest_moves(subject.rag.database, subject.collection.id) == []


def test_by_hand_it_stays_until_size_decides_again(subject: Subject) -> None:
    """A move with a target keeps the collection there whatever its size; one without goes where its size says."""
    assert belongs_to(subject.state, subject.rag.settings) == "pgvector"
    subject.move("faiss")
    assert subject.state.pinned_backend == "faiss"
    assert belongs_to(subject.state, subject.rag.settings) == "faiss"
    moved = subject.move(None)
    assert (moved.target, moved.by_hand) == ("pgvector", False)
    assert subject.state.pinned_backend is None
    with pytest.raises(InvalidInput, match="served by pgvector already"):
        moving.start(subject.rag, subject.name)


def test_progress_is_seen_by_others(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a move builds and verifies, anybody can read how far it is: phases in their order, chunks never fewer."""
    seen: list[tuple[str, int, int]] = []
    keep, recall = Pace.keep, verification._recall

    def look() -> None:
        move = subject.last_move
        seen.append((move.phase, move.chunks_done, move.chunks_total))

    def keeping(pace: Pace, chunks: int) -> None:
        keep(pace, chunks)
        look()

    def recalling(*args: Any) -> float:
        look()
        return recall(*args)

    monkeypatch.setattr(Pace, "keep", keeping)
    monkeypatch.setattr(verification, "_recall", recalling)
    ended = subject.move("faiss")
    building = [one for one in seen if one[0] == "building"]
    assert building == [("building", done, 300) for done in (0, 64, 128, 192, 256, 300)]
    assert {one for one in seen if one not in building} == {("verifying", 300, 300)}
    assert ended.build_s is not None
    assert 0 < ended.build_s < (ended.updated_at - ended.started_at).total_seconds()
