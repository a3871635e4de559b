"""Indexes that are away, behind, or followed by nobody."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

import retrieval
from backends.corpus.collections import identity
from backends.corpus.indexes import FollowLocks, find_index
from backends.errors import Conflict
from ops.health import following, outside, parity
from retrieval import Ragstone
from retrieval.config import Settings, load
from retrieval.placement import index_folder
from tests.acceptance.command import wait_for
from tests.corpora import put
from tests.health.watched import Watched, corpus_of_its_own, drawn, made_in
from tests.outages import PATIENCE_S, STORES, Store, during

TAIL_LIMIT = 40


@dataclass(frozen=True)
class Place:
    """A corpus with a collection in a backend, which no process keeps while no test has it open."""

    url: str
    settings: Settings
    store: Store | None = None

    @contextmanager
    def opened(self) -> Iterator[Watched]:
        """Have it in a process of its own, as it were."""
        with retrieval.open(self.url, settings=self.settings) as rag:
            yield Watched(rag)


@contextmanager
def placed(postgres_url: str, settings: Settings, backend: str, store: Store | None = None) -> Iterator[Place]:
    with corpus_of_its_own(postgres_url, f"health_following_{backend}") as url:
        with retrieval.open(url, settings=settings) as rag:
            made_in(rag, count=60).move(backend)
        yield Place(url, settings, store)


@pytest.fixture(scope="module")
def on_faiss(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = str(tmp_path_factory.mktemp("indexes"))
    settings = load(embedding_model="hashing", index_folder=folder, tail_limit=TAIL_LIMIT)
    with placed(postgres_url, settings, "faiss") as place:
        yield place


@pytest.fixture(scope="module", params=list(STORES))
def in_store(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[Place]:
    with STORES[request.param]() as store:
        settings = load(embedding_model="hashing", backend_timeout_s=1.0, **store.settings)
        with placed(postgres_url, settings, store.backend, store) as place:
            yield place


@pytest.fixture
def kept(on_faiss: Place) -> Iterator[Watched]:
    """A collection on FAISS, which this process keeps."""
    with on_faiss.opened() as subject:
        subject.index()
        assert wait_for(lambda: subject.level(following.index_followed) == "ok", PATIENCE_S)
        yield subject


@pytest.fixture
def other(on_faiss: Place) -> Iterator[Watched]:
    """The same in a process that has not opened the collection, while nobody keeps its index."""
    with on_faiss.opened() as subject:
        yield subject


@pytest.fixture
def stored(in_store: Place) -> Iterator[Watched]:
    """A collection in a store that can be broken, which nobody keeps yet."""
    with in_store.opened() as subject:
        yield subject


def write_unseen(rag: Ragstone, subject: Watched, count: int, first: int) -> None:
    """Write as a process does that follows no index."""
    ids = [f"d{number}" for number in range(first, first + count)]
    put(rag.database, subject.state, ids, drawn(count, first), tail_limit=TAIL_LIMIT)


def test_a_store_that_is_stopped(in_store: Place, stored: Watched) -> None:
    """It cannot be reached, and its index is away with the reason, until it is back."""
    store = in_store.store
    assert store is not None
    stored.index()
    assert stored.level(following.index_reachable) == stored.level(following.index_away) == "ok"
    with during(store, "stopped"):
        check = stored.look(following.index_reachable)["index_reachable"]
        assert (check.level, store.backend in check.detail.lower()) == ("crit", True)
        assert wait_for(lambda: stored.level(following.index_away) == "crit", PATIENCE_S)
        check = stored.look(following.index_away)["index_away"]
        assert check.detail
        assert (check.value or 0.0) > 0.0
    assert wait_for(lambda: stored.level(following.index_away) == "ok", PATIENCE_S)
    assert stored.level(following.index_reachable) == "ok"


def test_a_store_that_lost_everything(stored: Watched) -> None:
    """A store that answers without the index is critical, until whoever follows has built it anew."""
    with stored.subject.opened(stored.subject.rows[0]) as index:
        index.drop()
    assert stored.level(following.index_reachable) == "crit"
    stored.mend(following.index_reachable)
    assert stored.level(following.index_reachable) == "ok"


def test_what_is_behind_is_not_missing(stored: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that an index has yet to apply are no difference in its count; its ids are compared when it has them."""
    monkeypatch.setattr(parity, "KEEP_UP_S", 0.2)
    write_unseen(stored.rag, stored, 5, first=100)
    assert stored.level(parity.index_count) == "ok"
    check = stored.look(parity.index_ids)["index_ids"]
    assert (check.level, "index_behind" in check.detail) == ("unknown", True)
    monkeypatch.undo()
    stored.index()
    stored.collection.wait_until_indexed(PATIENCE_S)
    assert stored.level(parity.index_count) == stored.level(parity.index_ids) == "ok"


def test_a_store_that_is_not_configured_here(stored: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the store's address or key it is not known how it is, and the hint says what to set."""
    bare = stored.rag.settings.model_copy(update={"weaviate_url": None, "pinecone_api_key": None})
    monkeypatch.setattr(stored.rag, "settings", bare)
    found = stored.look(following.index_reachable)["index_reachable"]
    assert (found.level, "RAGSTONE_" in found.hint) == ("unknown", True)


def test_faiss_away_in_a_process_that_may_not_build(on_faiss: Place, kept: Watched) -> None:
    """A process that finds no snapshot, while another keeps the index, has none; with the snapshot it is back."""
    folder = index_folder(kept.rag.settings) / identity(kept.rag.database, kept.state).name
    aside = folder.with_name("aside")
    folder.rename(aside)
    with on_faiss.opened() as there:
        there.index()
        assert there.level(following.index_away) == "crit"
        assert kept.level(following.index_away) == "ok"
        shutil.copytree(aside, folder)
        assert wait_for(lambda: there.level(following.index_away) == "ok", PATIENCE_S)


def test_nobody_follows(other: Watched) -> None:
    """An index without a follower is a warning, and stays one however often it is looked at."""
    for function in outside.CHECKS:
        list(function(other.subject))  # looking follows nothing
    found = other.look(following.index_followed)["index_followed"]
    assert (found.level, "ragstone serve" in found.hint) == ("warn", True)
    other.index()
    assert wait_for(lambda: other.level(following.index_followed) == "ok", PATIENCE_S)


def test_an_index_that_stands_still(other: Watched) -> None:
    """The longer the oldest change waits the worse; with a process that follows it is well again."""
    write_unseen(other.rag, other, 5, first=100)
    assert other.level(following.index_behind) == "ok"
    for waited_s, level in ((100, "warn"), (1_000, "crit")):
        other.execute("UPDATE ragstone.change SET committed_at = now() - make_interval(secs => %s)", waited_s)
        found = other.look(following.index_behind)["index_behind"]
        assert (found.level, "1 changes" in found.detail, "5 chunks" in found.detail) == (level, True, True)
        assert found.value == pytest.approx(waited_s, abs=20)
    other.index()
    assert wait_for(lambda: other.level(following.index_behind) == "ok", PATIENCE_S)


def test_a_tail_that_is_full(other: Watched) -> None:
    """Writers wait behind it, so it is critical at once; the fix applies what nobody else does."""
    for first in (200, 250):
        write_unseen(other.rag, other, TAIL_LIMIT - 1, first)
    assert other.level(following.index_behind) == "crit"
    other.mend(following.index_behind)
    assert other.level(following.index_behind) == "ok"
    assert other.level(following.index_followed) == "warn"  # it was applied once, and is not followed from now on


def test_changes_that_are_forgotten(other: Watched) -> None:
    """An index behind what the corpus remembers has to be built anew, which the fix does."""
    write_unseen(other.rag, other, 5, first=300)
    other.execute("UPDATE ragstone.collection SET horizon = sequence")
    found = other.look(following.index_behind)["index_behind"]
    assert (found.level, "built anew" in found.detail) == ("crit", True)
    other.mend(following.index_behind)
    assert other.level(following.index_behind) == "ok"


def test_an_index_that_nobody_ever_followed(other: Watched) -> None:
    """It has waited since it was made."""
    other.execute("UPDATE ragstone.vector_index SET applied = NULL, changed_at = now() - interval '1 minute'")
    found = other.look(following.index_behind)["index_behind"]
    assert (found.level, found.detail) == ("warn", "nobody has followed it yet")
    other.index()
    assert wait_for(lambda: other.level(following.index_behind) == "ok", PATIENCE_S)


def test_what_another_process_follows_is_left_to_it(kept: Watched) -> None:
    """The fix never applies beside the process that keeps an index."""
    row = kept.subject.rows[0]
    check = kept.look(following.index_behind)["index_behind"]
    fix = following.catch_up(kept.rag, check)
    assert fix is not None
    with pytest.raises(Conflict, match="another process follows"):
        fix.run()
    assert kept.level(following.index_followed) == "ok"
    assert find_index(kept.rag.database, row.id) == row
    locks = FollowLocks(kept.rag.database)
    assert not locks.try_hold(row.id)
    locks.close()
