"""An index that does not hold or find what it should never serves: the move says why, and all is as before."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import retrieval
from backends import pgvector
from backends.corpus.moves import Move
from backends.faiss import FaissIndex
from backends.filters import Filter
from backends.types import Batch, Candidates, Embeddings, Ids, Progress
from ops import moving
from retrieval.config import Settings
from retrieval.placement import index_folder
from tests.moving.subject import DIMENSION, Subject, drawn, names

pytestmark = pytest.mark.usefixtures("soon")
FAR = 1 << 40
"""An id of a transaction that has not begun yet."""

Spoil = Callable[[Batch], Batch]


def spoil_builds(monkeypatch: pytest.MonkeyPatch, spoil: Spoil) -> None:
    """Let FAISS be built from other batches than the corpus gives."""
    build = FaissIndex.build

    def spoilt(self: FaissIndex, batches: Iterable[Batch], applied: int, progress: Progress) -> None:
        build(self, map(spoil, batches), applied, progress)

    monkeypatch.setattr(FaissIndex, "build", spoilt)


def without_a_tenth(batch: Batch) -> Batch:
    kept = np.arange(len(batch.ids)) % 10 != 0
    attributes = [one for one, keep in zip(batch.attributes, kept, strict=True) if keep]
    return Batch(ids=batch.ids[kept], embeddings=batch.embeddings[kept], attributes=attributes)


def with_others(ids: list[int]) -> Spoil:
    def spoil(batch: Batch) -> Batch:
        return Batch(
            ids=np.concatenate([batch.ids, np.array(ids, np.int64)]),
            embeddings=np.concatenate([batch.embeddings, drawn(len(ids), 5)]),
            attributes=batch.attributes + [{} for _ in ids],
        )

    return spoil


def with_a_tenth_shuffled(batch: Batch) -> Batch:
    """The ids are right, but a tenth of them stand for each other's embeddings."""
    embeddings = batch.embeddings.copy()
    embeddings[::10] = np.roll(embeddings[::10], 1, axis=0)
    return replace(batch, embeddings=embeddings)


def refused(subject: Subject, target: str) -> Move:
    """Move, and check that nothing came of it: served as before, found as before, nothing left behind."""
    before = subject.standing
    ended = moving.work_on(subject.rag, moving.start(subject.rag, subject.name, target))
    assert ended.phase == "failed"
    assert subject.standing == before
    subject.check_whole()
    assert subject.state.pinned_backend is None
    return ended


def folders(settings: Settings) -> set[Path]:
    folder = index_folder(settings)
    return set(folder.iterdir()) if folder.exists() else set()


@pytest.mark.parametrize(
    ("spoil", "missing", "foreign"),
    [
        pytest.param(without_a_tenth, 30, 0, id="lost"),
        pytest.param(with_others([1, 2, 3]), 0, 3, id="foreign and old"),
        pytest.param(with_others([FAR, 7]), 0, 2, id="foreign and new"),
    ],
)
def test_ids_that_differ(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, missing: int, foreign: int, settings: Settings
) -> None:
    """An index that lacks ids, or has others than the corpus, is refused by their number, and removed."""
    before = folders(settings)
    spoil_builds(monkeypatch, spoil)
    ended = refused(subject, "faiss")
    assert ended.verification is not None
    assert (ended.verification["missing"], ended.verification["foreign"]) == (missing, foreign)
    assert ended.problem is not None
    assert f"{missing} chunks are missing, {foreign} are not the corpus's" in ended.problem
    assert folders(settings) == before


def test_right_ids_with_wrong_embeddings(subject: Subject, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Where a tenth of the ids stand for other embeddings, recall says so, though no id is missing."""
    before = folders(settings)
    spoil_builds(monkeypatch, with_a_tenth_shuffled)
    ended = refused(subject, "faiss")
    assert ended.verification is not None
    assert (ended.verification["missing"], ended.verification["foreign"]) == (0, 0)
    assert 0.8 < ended.verification["recall"] < 0.95
    assert f"recall@10 is {ended.verification['recall']:.3f} on 200 queries" in str(ended.problem)
    assert folders(settings) == before


def test_a_search_that_reaches_too_little(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that holds everything and proposes only from a half of it is refused for its recall."""
    search = FaissIndex.search

    def half(
        self: FaissIndex,
        queries: Embeddings,
        candidates: int,
        filter: Filter | None = None,
        effort: int | None = None,
        allowed: Ids | None = None,
    ) -> Candidates:
        reached = np.concatenate(list(self.ids()))
        return search(self, queries, candidates, filter, effort, np.sort(reached[reached % 2 == 0]))

    monkeypatch.setattr(FaissIndex, "search", half)
    ended = refused(subject, "faiss")
    assert ended.verification is not None
    assert 0.3 < ended.verification["recall"] < 0.7
    assert "raise the search effort (ef_search)" in str(ended.problem)


@pytest.fixture
def thin(url: str, settings: Settings, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    """A collection on FAISS, in a Ragstone whose HNSW has the fewest links and is searched with the least effort."""
    monkeypatch.setattr(pgvector, "M", 2)
    monkeypatch.setattr(pgvector, "EF_CONSTRUCTION", 4)
    with retrieval.open(url, settings=settings.model_copy(update={"ef_search": 1})) as rag:
        made = Subject(rag, rag.create_collection(name, dimension=DIMENSION))
        made.put(names(0, 300), seed=1)
        made.move("faiss")
        made.arrive("faiss")
        yield made
        rag.delete_collection(name)


def test_an_effort_that_is_too_low_for_the_target(thin: Subject) -> None:
    """HNSW that misses too many with its effort is refused, and taken where the collection asks for less."""
    thin.collection.configure(recall_target=0.9)
    ended = moving.work_on(thin.rag, moving.start(thin.rag, thin.name, "pgvector"))
    assert ended.phase == "failed"
    assert "below the target 0.9: raise the search effort" in str(ended.problem)
    assert thin.standing == [("faiss", "serving"), ("pgvector", "live")]
    assert thin.state.pinned_backend == "faiss"
    thin.check_whole()
    thin.collection.configure(recall_target=0.1)
    thin.move("pgvector")
    thin.arrive("pgvector")


def test_a_collection_that_failed_can_be_moved_later(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move that failed leaves nothing in the way of the next, which begins anew."""
    with monkeypatch.context() as spoilt:
        spoil_builds(spoilt, without_a_tenth)
        refused(subject, "faiss")
    subject.move("faiss")
    subject.arrive("faiss")
    subject.check_whole()
    assert subject.standing == [("faiss", "serving"), ("pgvector", "live")]
