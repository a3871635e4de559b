"""Old indexes go in two steps, wherever they are, and the one that serves never does."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import retrieval
from backends.corpus.collections import identity
from backends.corpus.indexes import IndexRow
from backends.errors import CollectionNotFound, IndexUnavailable
from backends.types import IndexStats
from ops import moving
from ops.moving import dropping
from retrieval.config import Settings
from retrieval.placement import index_folder, open_index
from tests.fakes.weaviate_server import FakeWeaviate, weaviate_server
from tests.moving.subject import DIMENSION, Subject, names

pytestmark = pytest.mark.usefixtures("few_queries", "soon")
OUTSIDE = ("faiss", "weaviate", "pinecone")
AN_HOUR_S = 3_600


def row_of(subject: Subject, backend: str) -> IndexRow:
    return next(row for row in subject.rows if row.backend == backend)


def _folder(subject: Subject, row: IndexRow, settings: Settings) -> Path:
    """Where an index has its files; other corpora may have theirs beside it."""
    owner = identity(subject.rag.database, replace(subject.state, index_id=row.id))
    return index_folder(settings) / owner.name


def stats_of(subject: Subject, row: IndexRow) -> IndexStats:
    """How an index stands where it lives, as a process sees it that has not seen it before."""
    state = replace(subject.state, backend=row.backend, index_id=row.id)
    index = open_index(subject.rag.database, state, subject.rag.settings)
    try:
        return index.stats()
    finally:
        index.close()


def search_indexes(subject: Subject) -> set[str]:
    """The indexes for searches that PostgreSQL has of the collection: hnsw, gin."""
    pattern = f"%\\_{subject.collection.id}\\_%"
    with subject.rag.database.connection() as connection:
        found = connection.execute(
            "SELECT a.amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
            "WHERE c.relname LIKE %s AND a.amname IN ('hnsw', 'gin')",
            (pattern,),
        ).fetchall()
    return {row[0] for row in found}


@pytest.mark.parametrize("backend", OUTSIDE)
def test_two_steps(subject: Subject, backend: str, settings: Settings) -> None:
    """The first call says that an old index goes, the second removes all of it; what serves is not touched."""
    subject.move(backend)
    subject.move("pgvector")
    row = row_of(subject, backend)
    assert stats_of(subject, row).count == len(subject.kept)
    assert moving.drop_old(subject.rag, 0, subject.name) == [f"{backend} of {subject.name}"]
    assert subject.standing == [("pgvector", "serving"), (backend, "dropping")]
    assert stats_of(subject, row).ready
    assert moving.drop_old(subject.rag, 0, subject.name) == []
    assert subject.standing == [("pgvector", "serving")]
    left = stats_of(subject, row)
    assert (left.ready, left.count) == (False, 0)
    assert not _folder(subject, row, settings).exists()
    moving.drop_old(subject.rag, 0)
    subject.arrive("pgvector")
    subject.check_whole()


def test_in_the_corpus(subject: Subject) -> None:
    """Of pgvector's indexes HNSW goes; the one for filters stays, since every backend's searches use it."""
    subject.move("faiss")
    subject.move("pgvector")
    subject.move("faiss")
    assert search_indexes(subject) == {"hnsw", "gin"}
    moving.drop_old(subject.rag, 0, subject.name)
    moving.drop_old(subject.rag, 0, subject.name)
    assert subject.standing == [("faiss", "serving")]
    assert search_indexes(subject) == {"gin"}
    subject.arrive("faiss")
    subject.check_whole()


def test_what_was_to_go_and_came_back_stays(subject: Subject) -> None:
    """HNSW that was about to be dropped, and serves again by then, is not dropped: a collection has only one."""
    subject.move("faiss")
    moving.drop_old(subject.rag, 0, subject.name)
    assert subject.standing == [("faiss", "serving"), ("pgvector", "dropping")]
    subject.move("pgvector")
    moving.drop_old(subject.rag, AN_HOUR_S, subject.name)
    assert subject.standing == [("pgvector", "serving"), ("faiss", "live")]
    assert search_indexes(subject) == {"hnsw", "gin"}


def test_not_too_soon(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index is kept as long as was asked for, and removed only when no search can be using it any more."""
    subject.move("faiss")
    subject.move("pgvector")
    assert moving.drop_old(subject.rag, AN_HOUR_S, subject.name) == []
    assert subject.standing == [("pgvector", "serving"), ("faiss", "live")]
    moving.drop_old(subject.rag, 0, subject.name)
    monkeypatch.setattr(dropping, "longest_query_s", lambda rag: AN_HOUR_S)
    assert moving.drop_old(subject.rag, 0, subject.name) == [f"faiss of {subject.name}"]
    assert stats_of(subject, row_of(subject, "faiss")).ready


def test_one_collection_at_a_time(subject: Subject) -> None:
    """Dropping what one collection has no use for leaves the others theirs."""
    other = Subject(subject.rag, subject.rag.create_collection(f"{subject.name}.other", dimension=DIMENSION))
    try:
        other.put(names(0, 120), seed=3)
        for each in (subject, other):
            each.move("faiss")
        moving.drop_old(subject.rag, 0, subject.name)
        moving.drop_old(subject.rag, 0, subject.name)
        assert subject.standing == [("faiss", "serving")]
        assert other.standing == [("faiss", "serving"), ("pgvector", "live")]
    finally:
        subject.rag.delete_collection(other.name)


@dataclass
class OnWeaviate:
    """A collection that has an index in a Weaviate of its own, which can be stopped."""

    subject: Subject
    server: FakeWeaviate


@pytest.fixture
def on_weaviate(url: str, settings: Settings, name: str) -> Iterator[OnWeaviate]:
    with weaviate_server() as server:
        where = {"weaviate_url": server.url, "weaviate_grpc_port": server.grpc_port, "backend_timeout_s": 1.0}
        with retrieval.open(url, settings=settings.model_copy(update=where)) as rag:
            subject = Subject(rag, rag.create_collection(name, dimension=DIMENSION))
            subject.put(names(0, 120), seed=1)
            subject.move("weaviate")
            yield OnWeaviate(subject, server)
            if name in rag.collections():
                rag.delete_collection(name)


def test_a_store_that_is_away_is_tried_again(on_weaviate: OnWeaviate) -> None:
    """An old index that cannot be reached stays in the list, and goes when its store is back."""
    subject, server = on_weaviate.subject, on_weaviate.server
    subject.move("pgvector")
    left = [f"weaviate of {subject.name}"]
    server.stop()
    assert moving.drop_old(subject.rag, 0, subject.name) == left
    assert moving.drop_old(subject.rag, 0, subject.name) == left
    assert subject.standing == [("pgvector", "serving"), ("weaviate", "dropping")]
    server.start()
    assert len(server.store.classes) == 1
    assert moving.drop_old(subject.rag, 0, subject.name) == []
    assert not server.store.classes
    assert subject.standing == [("pgvector", "serving")]


def test_a_cancelled_move_ends_also_while_the_store_is_away(on_weaviate: OnWeaviate) -> None:
    """A move to a store that went away can be cancelled; what it left there goes when the store is back."""
    subject, server = on_weaviate.subject, on_weaviate.server
    subject.move("pgvector")
    for _ in range(2):
        moving.drop_old(subject.rag, 0, subject.name)
    move = moving.start(subject.rag, subject.name, "weaviate")
    server.stop()
    with pytest.raises(IndexUnavailable, match="Weaviate"):
        moving.work_on(subject.rag, move)
    assert subject.last_move.active
    assert "Weaviate" in str(subject.last_move.problem)
    assert moving.cancel(subject.rag, subject.name)
    assert moving.work_on(subject.rag, move).phase == "cancelled"
    server.start()
    moving.drop_old(subject.rag, 0, subject.name)
    assert subject.standing == [("pgvector", "serving")]
    assert not server.store.classes


@pytest.mark.parametrize("serving", ["weaviate", "pgvector"])
def test_a_deleted_collection_takes_its_indexes_along(on_weaviate: OnWeaviate, serving: str) -> None:
    """Deleting a collection removes its index from the store, whether it serves or is kept."""
    subject, server = on_weaviate.subject, on_weaviate.server
    if serving != "weaviate":
        subject.move(serving)
    assert len(server.store.classes) == 1
    subject.rag.delete_collection(subject.name)
    assert not server.store.classes
    with pytest.raises(CollectionNotFound):
        subject.rag.collection(subject.name)


def test_a_collection_is_deleted_also_while_its_store_is_away(on_weaviate: OnWeaviate) -> None:
    """A store that cannot be reached keeps nobody from deleting; the corpus is rid of the collection."""
    subject, server = on_weaviate.subject, on_weaviate.server
    server.stop()
    subject.rag.delete_collection(subject.name)
    assert subject.name not in subject.rag.collections()


def test_deleted_files_go(subject: Subject, settings: Settings) -> None:
    """Deleting a collection removes its FAISS index from the disk."""
    subject.move("faiss")
    subject.arrive("faiss")
    folder = _folder(subject, row_of(subject, "faiss"), settings)
    assert any(folder.iterdir())
    subject.rag.delete_collection(subject.name)
    assert not folder.exists()
