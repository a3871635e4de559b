"""A mover that dies at any step is followed by another, which ends what it began."""

from collections.abc import Callable

import pytest

import retrieval
from backends.corpus import following, moves
from backends.corpus.following import forgotten_up_to
from backends.corpus.moves import Move
from backends.corpus.writing import forget_changes
from backends.errors import Conflict
from backends.faiss import making
from backends.pgvector import PgvectorIndex
from ops import moving
from ops.moving import mover, verification
from ops.moving.gentle import Pace
from ops.moving.progress import MoveProgress
from retrieval.config import Settings
from tests.moving.crashing import Crash, Step
from tests.moving.subject import Subject, names

pytestmark = pytest.mark.usefixtures("few_queries", "soon")

OUTSIDE = {
    "the index has a row": Step(mover, "find_index"),
    "the move knows its index": Step(MoveProgress, "report", after=True),
    "in the middle of the build": Step(Pace, "keep", nth=3),
    "built, and not written down": Step(mover, "record_applied"),
    "catching up": Step(mover._Mover, "_catch_up"),
    "about to be live": Step(mover, "set_state"),
    "live": Step(mover, "set_state", after=True),
    "verifying": Step(verification, "_recall", nth=5),
    "before the change-over": Step(moves, "finish_move"),
    "after the change-over": Step(moves, "finish_move", after=True),
}
IN_CORPUS = {
    "the index has a row": Step(mover, "find_index"),
    "the move knows its index": Step(MoveProgress, "report", after=True),
    "built, and not written down": Step(PgvectorIndex, "build_missing", after=True),
    "live": Step(mover, "set_state", after=True),
    "before the change-over": Step(moves, "finish_move"),
    "after the change-over": Step(moves, "finish_move", after=True),
}
STORES = {"in the middle of the build": Step(Pace, "keep"), "live": OUTSIDE["live"]}


@pytest.fixture
def crashed(url: str, settings: Settings, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Move in a Ragstone of its own, which crashes at a step."""
    monkeypatch.setattr(following, "ROWS_PER_BATCH", 64)
    monkeypatch.setattr(making, "ROWS_AT_ONCE", 64)

    def crash(step: Step, target: str) -> None:
        with retrieval.open(url, settings=settings) as rag, monkeypatch.context() as crashing:
            step.crash(crashing)
            with pytest.raises(Crash):
                moving.work_on(rag, moving.start(rag, subject.name, target))

    return crash


def go_on(url: str, settings: Settings, subject: Subject) -> Move:
    """Go on in a new Ragstone, as a new process would, unless the move was done before the crash."""
    if not subject.last_move.active:
        return subject.last_move
    with retrieval.open(url, settings=settings) as rag:
        return moving.work_on(rag, moving.start(rag, subject.name))


def write_on(subject: Subject) -> None:
    """What users do between a crash and the next start."""
    subject.put(names(290, 20), seed=2)
    subject.delete(names(10, 5))


def check_ended(subject: Subject, ended: Move, target: str, source: str, tries: int) -> None:
    """The move is done, nothing is lost, two indexes are left, and what they have applied can be forgotten."""
    assert (ended.phase, ended.tries, ended.target) == ("done", tries, target)
    subject.arrive(target)
    subject.check_whole()
    assert subject.standing == [(target, "serving"), (source, "live")]
    assert [row.away_since for row in subject.rows] == [None, None]
    forget_changes(subject.rag.database, subject.collection.id)
    assert forgotten_up_to(subject.rag.database, subject.state) > 0


@pytest.mark.parametrize("step", OUTSIDE.values(), ids=OUTSIDE)
def test_a_move_to_files(
    subject: Subject, crashed: Callable[..., None], url: str, settings: Settings, step: Step
) -> None:
    """Dead at any step of a move to FAISS: the next try ends it, with what was written in between."""
    crashed(step, "faiss")
    write_on(subject)
    subject.check_congruent(queries=2)
    tries = 1 if subject.last_move.phase == "done" else 2
    check_ended(subject, go_on(url, settings, subject), "faiss", "pgvector", tries)


@pytest.mark.parametrize("step", STORES.values(), ids=STORES)
@pytest.mark.parametrize("target", ["weaviate", "pinecone"])
def test_a_move_to_a_store(
    subject: Subject, crashed: Callable[..., None], url: str, settings: Settings, target: str, step: Step
) -> None:
    """Dead in a move to a store that outlives the mover: what was left there is gone on with, or replaced."""
    crashed(step, target)
    write_on(subject)
    check_ended(subject, go_on(url, settings, subject), target, "pgvector", tries=2)


@pytest.mark.parametrize("step", IN_CORPUS.values(), ids=IN_CORPUS)
def test_a_move_into_the_corpus(
    subject: Subject, crashed: Callable[..., None], url: str, settings: Settings, step: Step
) -> None:
    """Dead at any step of a move back to pgvector, whose old index was dropped: the next try ends it."""
    subject.move("faiss")
    subject.arrive("faiss")
    for _ in range(2):
        moving.drop_old(subject.rag, 0, subject.name)
    assert subject.standing == [("faiss", "serving")]
    crashed(step, "pgvector")
    write_on(subject)
    tries = 1 if subject.last_move.phase == "done" else 2
    check_ended(subject, go_on(url, settings, subject), "pgvector", "faiss", tries)


def test_dead_again_and_again(subject: Subject, crashed: Callable[..., None], url: str, settings: Settings) -> None:
    """A move whose movers die one after the other gets to its end all the same, and counts them."""
    for step in ("the index has a row", "in the middle of the build", "live", "verifying"):
        crashed(OUTSIDE[step], "faiss")
        first = len(subject.kept) + len(subject.deleted)
        subject.put(names(first, 10), seed=first)
    check_ended(subject, go_on(url, settings, subject), "faiss", "pgvector", tries=5)


def test_a_move_that_has_ended_is_not_worked_on(subject: Subject) -> None:
    """Who comes too late to work on a move that is done changes nothing, wherever it went."""
    subject.move("faiss")
    ended = subject.move("pgvector")
    subject.arrive("pgvector")
    index = subject.index()
    assert isinstance(index, PgvectorIndex)
    assert index.stats().ready
    before = subject.standing
    assert moving.work_on(subject.rag, ended).phase == "done"
    assert subject.standing == before
    assert index.stats().ready


def test_one_works_on_a_move_at_a_time(subject: Subject) -> None:
    """While one process works on a move, another is told so, and the move's count of tries stays."""
    move = moving.start(subject.rag, subject.name, "faiss")
    with subject.rag.database.dedicated() as connection:
        assert moves.lock_move(connection, move)
        with pytest.raises(Conflict, match="another process works on the move"):
            moving.work_on(subject.rag, move)
    assert subject.last_move.tries == 0
    assert moving.work_on(subject.rag, move).phase == "done"
