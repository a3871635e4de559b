"""A vector index that cannot be used: what still works, what is said of it, and that it comes back by itself."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import retrieval
from backends import attached
from backends.corpus.collections import find_collection, identity
from backends.corpus.indexes import FollowLocks, chunk_ids
from backends.errors import IndexUnavailable
from backends.pinecone.connection import TRIES
from retrieval import Collection, Ragstone, follower
from retrieval.config import Settings
from retrieval.placement import index_folder
from tests.acceptance.command import wait_for
from tests.corpora import random_embeddings
from tests.outages import PATIENCE_S, STORES, Outage, Store, during, impatient, moved, noticed
from tests.service.serving import database_of_its_own
from tests.stores import Stores

NAME = "handbook"
COUNT, DIMENSION = 60, 8
EMBEDDINGS = random_embeddings(COUNT, DIMENSION)
TAIL_LIMIT = 40
TIMEOUT_S = 2.0
SEARCHES = 20


@dataclass(frozen=True, slots=True)
class Handbook:
    """A collection as one process has it, and the documents in it: `kind/n` has embedding n."""

    rag: Ragstone
    collection: Collection
    ids: set[str] = field(default_factory=set)

    def write(self, kind: str) -> None:
        """Write more chunks than the tail may have."""
        ids = [f"{kind}/{n}" for n in range(COUNT)]
        assert self.collection.upsert_embeddings(ids, EMBEDDINGS, ids).upserted == COUNT > TAIL_LIMIT
        self.ids.update(ids)

    def delete(self, id_: str) -> None:
        assert self.collection.delete(ids=[id_]) == 1
        self.ids.remove(id_)

    def look(self, n: int = 0) -> bool:
        """Search for all that has embedding n, check that it is what is found, and return whether exactly."""
        wanted = sorted(id_ for id_ in self.ids if id_.endswith(f"/{n}"))
        found = self.collection.search_with_timings(EMBEDDINGS[n], len(wanted))
        assert [hit.id for hit in found.hits] == wanted
        return found.exact

    def recovers(self) -> None:
        """Return when the index serves again, with all that the corpus has, and nothing is away."""
        assert wait_for(lambda: not self.rag.away_indexes() and not self.look(), PATIENCE_S)
        self.collection.wait_until_indexed(PATIENCE_S)
        state = find_collection(self.rag.database, NAME)
        held = np.concatenate([*self.rag.indexes.attach(state).index.ids()])
        with self.rag.database.dedicated() as connection:
            assert sorted(held.tolist()) == chunk_ids(connection, state).tolist()
        assert len(held) == len(self.ids)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a collection is served by a store that can be broken."""

    store: Store
    url: str
    settings: Settings
    handbook: Handbook


@pytest.fixture(scope="module", params=list(STORES))
def place(request: pytest.FixtureRequest, postgres_url: str, stores: Stores) -> Iterator[Place]:
    backend = request.param
    stores.settings(backend)  # skips where its driver is not installed
    with STORES[backend]() as store, database_of_its_own(postgres_url, f"away_{backend}") as url, impatient():
        settings = stores.settings(backend, **store.settings, tail_limit=TAIL_LIMIT, backend_timeout_s=TIMEOUT_S)
        with retrieval.open(url, settings=settings) as rag:
            yield Place(store, url, settings, _moved(rag, backend))


@pytest.mark.parametrize("outage", ["stopped", "failing", "hanging"])
def test_an_outage_is_survived(place: Place, outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    """Writes and exact searches go on, once it is said what is away, once that it is back, and nothing is lost."""
    handbook = place.handbook
    with during(place.store, outage):
        assert sum(_waits(handbook) for _ in range(SEARCHES)) <= SEARCHES / 4  # those that find out
        handbook.write(f"early {outage}")
        assert wait_for(lambda: noticed(handbook.rag), PATIENCE_S)
        handbook.write(f"late {outage}")
        handbook.delete(f"early {outage}/0")
        assert handbook.look()
        (away,) = handbook.rag.away_indexes()
        assert (away.collection, away.backend) == (NAME, place.store.backend)
        assert abs(datetime.now(UTC) - away.since) < timedelta(seconds=PATIENCE_S)
        assert "127.0.0.1" in away.reason
        time.sleep(1)  # it is asked for all the time, and that is not news
    handbook.recovers()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 2, said
    assert f"the {place.store.backend} index of {NAME} is away: " in said[0]
    assert f"the {place.store.backend} index of {NAME} is back after " in said[1]


def test_a_store_that_lost_everything_is_filled_anew(place: Place) -> None:
    """Searches stay right meanwhile, and nobody has to ask for the build."""
    handbook = place.handbook
    with during(place.store, "emptied"):
        handbook.look()
        handbook.write("after the loss")
        handbook.look()
    handbook.recovers()


def test_a_large_collection_says_that_it_cannot_answer(place: Place) -> None:
    """Above exact_fallback_chunks a search raises; an exact one, which was asked for, answers."""
    settings = place.settings.model_copy(update={"exact_fallback_chunks": 10})
    with retrieval.open(place.url, settings=settings) as strict:
        collection = strict.collection(NAME)
        assert not collection.search_with_timings(EMBEDDINGS[0]).exact
        with during(place.store, "stopped"):
            assert wait_for(lambda: noticed(strict), PATIENCE_S)
            with pytest.raises(IndexUnavailable, match=r"more than exact_fallback_chunks \(10\)"):
                collection.search(EMBEDDINGS[0])
            assert collection.search(EMBEDDINGS[0], 1, exact=True)
            assert wait_for(lambda: not collection.info().indexed, PATIENCE_S)
            assert [away.collection for away in strict.away_indexes()] == [NAME]
        place.handbook.recovers()
        assert wait_for(lambda: not strict.away_indexes() and collection.info().indexed, PATIENCE_S)
        assert not collection.search_with_timings(EMBEDDINGS[0]).exact


def test_searches_do_not_try_in_turn(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twenty searches one finds out that the store fails; the others do not ask it."""
    for module, name in ((attached, "RETRY_S"), (follower, "CHECK_S")):
        monkeypatch.setattr(module, name, PATIENCE_S)
    asked = place.store.fail_searches()
    assert all(place.handbook.look() for _ in range(SEARCHES))
    assert 1 <= asked() <= TRIES
    monkeypatch.undo()
    place.store.end("failing")
    place.handbook.recovers()


def _waits(handbook: Handbook) -> bool:
    """Search while the index is away, and return whether that took as long as a store may."""
    started_s = time.monotonic()
    assert handbook.look()
    return time.monotonic() - started_s >= TIMEOUT_S


def _moved(rag: Ragstone, backend: str) -> Handbook:
    handbook = Handbook(rag, rag.create_collection(NAME, dimension=DIMENSION))
    handbook.write("first")
    moved(rag, handbook.collection, backend)
    return handbook


@pytest.fixture(scope="module")
def faiss(postgres_url: str, stores: Stores) -> Iterator[tuple[str, Settings]]:
    """A corpus whose collection is served by files, and how to open it."""
    settings = stores.settings("faiss", tail_limit=TAIL_LIMIT)
    with database_of_its_own(postgres_url, "away_faiss") as url, impatient():
        with retrieval.open(url, settings=settings) as rag:
            _moved(rag, "faiss")
        yield url, settings


def _cut_largest(folder: Path) -> None:
    largest = max(filter(Path.is_file, folder.iterdir()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def _cut_manifest(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-10])


@pytest.mark.parametrize("damage", [_cut_largest, _cut_manifest, shutil.rmtree])
def test_damaged_files_are_built_anew(
    faiss: tuple[str, Settings], damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The next process finds out, and serves from an index that it has built again."""
    url, settings = faiss
    damage(_folder(url, settings))
    with retrieval.open(url, settings=settings) as rag:
        _as_it_was(rag).recovers()
    assert sum("is to be rebuilt" in record.getMessage() for record in caplog.records) == (damage != shutil.rmtree)


def test_damaged_files_of_an_index_that_another_process_keeps(faiss: tuple[str, Settings]) -> None:
    """Who may not build answers exactly, and builds as soon as nobody keeps the index any more."""
    url, settings = faiss
    _cut_largest(_folder(url, settings))
    with retrieval.open(url, settings=settings) as rag:
        state = find_collection(rag.database, NAME)
        with closing(FollowLocks(rag.database)) as locks:
            assert locks.try_hold(state.index_id)
            handbook = _as_it_was(rag)
            assert handbook.look()
            (away,) = rag.away_indexes()
            assert (away.collection, away.backend) == (NAME, "faiss")
            assert "by the process that keeps it" in away.reason
        handbook.recovers()


def _as_it_was(rag: Ragstone) -> Handbook:
    collection = rag.collection(NAME)
    return Handbook(rag, collection, {document.id for document in collection.documents(1_000)})


def _folder(url: str, settings: Settings) -> Path:
    """Return the folder of the index, which no process has open now."""
    with retrieval.open(url, settings=settings) as rag:
        found = identity(rag.database, find_collection(rag.database, NAME))
    return index_folder(settings) / found.name
