"""Several processes on one corpus: one applies to an index that they share, and when it ends another does."""

from collections.abc import Iterator
from functools import partial

import pytest

import retrieval
from backends.base import VectorIndex
from backends.corpus.following import forgotten_up_to
from backends.corpus.indexes import FOLLOW_LOCK_SPACE
from backends.corpus.writing import forget_changes
from backends.faiss import FaissIndex
from backends.pinecone import PineconeIndex
from backends.types import Change
from backends.weaviate import WeaviateIndex
from retrieval import Ragstone, follower
from retrieval.config import Settings
from tests.moving.subject import Subject, eventually, names

pytestmark = pytest.mark.usefixtures("few_queries", "soon")
SHARED: dict[str, type[VectorIndex]] = {"weaviate": WeaviateIndex, "pinecone": PineconeIndex}


@pytest.fixture
def second_rag(url: str, settings: Settings, rag: Ragstone) -> Iterator[Ragstone]:
    """Another process on the same corpus, as far as it can be had inside of one."""
    with retrieval.open(url, settings=settings) as opened:
        yield opened


@pytest.fixture
def appliers(monkeypatch: pytest.MonkeyPatch) -> list[VectorIndex]:
    """The index objects that changes were applied by."""
    found: list[VectorIndex] = []

    def spy(kind: type[VectorIndex]) -> None:
        apply = kind.apply

        def applying(self: VectorIndex, changes: list[Change]) -> int:
            found.append(self)
            return apply(self, changes)

        monkeypatch.setattr(kind, "apply", applying)

    for kind in (FaissIndex, *SHARED.values()):
        spy(kind)
    return found


def holders(subject: Subject) -> int:
    """How many sessions hold the follow lock of the index that serves."""
    values = (FOLLOW_LOCK_SPACE, subject.state.index_id)
    with subject.rag.database.connection() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND granted",
            values,
        ).fetchone()
    assert row is not None
    return int(row[0])


def applied(subject: Subject) -> int:
    return subject.index().stats().applied


def has_applied(subject: Subject, sequence: int) -> bool:
    return applied(subject) == sequence


@pytest.mark.parametrize("backend", SHARED)
def test_one_applies_to_what_is_shared(
    subject: Subject, second_rag: Ragstone, appliers: list[VectorIndex], backend: str
) -> None:
    """Of two processes one applies to a shared index, whoever writes, and both find everything at once."""
    subject.move(backend)
    second = subject.opened_by(second_rag)
    for each in (subject, second):
        each.arrive(backend)
    eventually(lambda: holders(subject) == 1)
    appliers.clear()
    for number, each in enumerate((subject, second, subject, second)):
        each.put(names(300 + 5 * number, 5), seed=100 + number)
        for reader in (subject, second):
            reader.check_found(names(300 + 5 * number, 5))
        each.collection.wait_until_indexed(60)
    assert len(set(map(id, appliers))) == 1
    assert holders(subject) == 1
    for each in (subject, second):
        each.check_whole()


@pytest.mark.parametrize("backend", ["weaviate", "faiss"])
def test_another_takes_over(
    url: str, settings: Settings, subject: Subject, appliers: list[VectorIndex], backend: str
) -> None:
    """When the process that applies ends, another goes on from where that was, and what was written is applied."""
    with retrieval.open(url, settings=settings) as keeping:
        keeper = subject.opened_by(keeping)
        keeper.move(backend)
        keeper.arrive(backend)
        eventually(lambda: holders(subject) == 1)
        subject.arrive(backend)
        keeper.put(names(300, 5), seed=2)
        keeper.collection.wait_until_indexed(60)
        assert keeper.index() in appliers
        appliers.clear()
    subject.put(names(305, 5), seed=3)
    subject.delete(names(0, 5))
    subject.check_found(names(300, 10))
    eventually(lambda: holders(subject) == 1)
    subject.check_whole()
    assert set(map(id, appliers)) == {id(subject.index())}


def kept_here(subject: Subject) -> None:
    """Move to FAISS, and wait until this process is the one that keeps the index: no other has it open yet."""
    subject.move("faiss")
    subject.arrive("faiss")
    eventually(lambda: holders(subject) == 1)


def test_a_copy_follows_by_itself(subject: Subject, second_rag: Ragstone) -> None:
    """A copy in a process that does not keep the index comes up to date without a search asking it to."""
    kept_here(subject)
    second = subject.opened_by(second_rag)
    second.arrive("faiss")
    subject.put(names(300, 20), seed=2)
    subject.delete(names(0, 10))
    wanted = subject.state.sequence
    for each in (subject, second):
        eventually(partial(has_applied, each, wanted))
        each.check_whole()
    assert holders(subject) == 1


@pytest.mark.parametrize("asked", [False, True], ids=["by itself", "for a search"])
def test_a_copy_that_missed_what_is_forgotten(
    subject: Subject, second_rag: Ragstone, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """A copy that stood still while changes were forgotten loads what the keeper has saved since."""
    monkeypatch.setattr(follower, "SAVE_EVERY_S", 0.0)
    copying = follower.Follower._copy
    monkeypatch.setattr(follower.Follower, "_copy", lambda self, attached: None)
    kept_here(subject)
    second = subject.opened_by(second_rag)
    second.arrive("faiss")
    behind = applied(second)
    for number in range(3):
        subject.put(names(300 + number, 1), seed=100 + number)
        subject.delete(names(number, 1))
    forget(subject)
    assert forgotten_up_to(subject.rag.database, subject.state) > behind == applied(second)
    if not asked:
        monkeypatch.setattr(follower.Follower, "_copy", copying)
        eventually(lambda: applied(second) == subject.state.sequence)
    second.check_found(names(300, 3))
    assert applied(second) == subject.state.sequence
    second.check_congruent()


def forget(subject: Subject) -> None:
    """Wait until the keeper has saved all, and forget the changes that nobody needs any more."""
    eventually(lambda: subject.rows[0].durable == subject.state.sequence)
    forget_changes(subject.rag.database, subject.collection.id)
