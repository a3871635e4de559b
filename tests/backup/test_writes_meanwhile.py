"""Backups that are made while others write: each is the corpus at its number, exactly, and nobody waits for it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest

from backends.corpus.collections import CollectionState, find_collection
from backends.corpus.exporting import SnapshotReader
from backends.corpus.indexes import begin_index
from backends.errors import CollectionNotFound
from backends.vectors import prepare_kept
from ops import backup
from ops.backup import planning
from ops.backup.chains import chain, load
from ops.backup.contents import live_runs, read_file
from ops.backup.parents import Parent
from ops.backup.planning import Plan, plan_collection
from ops.backup.progress import Progress
from ops.backup.repository import Repository
from ops.backup.shards import embeddings_of, read_chunks
from retrieval import Collection, Ragstone
from tests.backup.subject import DIMENSION, check_same, drawn, ids_of, names, rows_of

DOCUMENTS = 400
ROUNDS = 20_000
PAUSE_S = 0.004


class Held(NamedTuple):
    """A chunk in a backup."""

    document_id: str
    text: str
    embedding: bytes


class Load:
    """Writes and searches of one collection, each in a thread of its own. `texts` is what each embedding was."""

    def __init__(self, rag: Ragstone, name: str) -> None:
        self._rag = rag
        self._collection = rag.create_collection(name, dimension=DIMENSION)
        self._stopping = threading.Event()
        self.texts: dict[str, bytes] = {}
        self.rounds: dict[str, int] = {}
        self.failures: list[BaseException] = []
        begin_index(rag.database, self._collection.id, "faiss", follows=True)  # so that no change is forgotten
        self.write(names(0, DOCUMENTS), 1)

    @property
    def state(self) -> CollectionState:
        return find_collection(self._rag.database, self._collection.name)

    def write(self, ids: list[str], seed: int) -> None:
        """Write documents, new or not, each with a text that no other write has."""
        embeddings = drawn(len(ids), seed)
        texts = [f"{id_} {seed}" for id_ in ids]
        kept = prepare_kept(embeddings, self.state.spec)
        self.texts |= {text: row.tobytes() for text, row in zip(texts, kept, strict=True)}
        self._collection.upsert_embeddings(ids, embeddings, texts)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Go on while the block runs; raises what went wrong."""
        works: list[Callable[[int], object]] = [self._upsert, self._replace, self._delete, self._search]
        threads = [threading.Thread(target=self._repeat, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
            self._stopping.clear()
            if self.failures:
                raise self.failures[0]

    def _repeat(self, work: Callable[[int], object]) -> None:
        try:
            for number in range(ROUNDS):
                if self._stopping.wait(PAUSE_S):
                    return
                work(number)
                self.rounds[work.__name__] = self.rounds.get(work.__name__, 0) + 1
        except BaseException as error:
            self.failures.append(error)

    def _upsert(self, number: int) -> None:
        self.write(names(10_000 + 3 * number, 3), 10_000 + number)

    def _replace(self, number: int) -> None:
        self.write(names(number * 7 % DOCUMENTS, 2), 50_000 + number)

    def _delete(self, number: int) -> None:
        self._collection.delete(ids=names(number * 11 % DOCUMENTS, 1) + names(10_000 + number, 1))

    def _search(self, number: int) -> None:
        assert len(self._collection.search(drawn(1, number)[0], 10)) == 10


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 16 chunks, so that a small collection takes many."""
    monkeypatch.setattr(planning, "LEAST_ROWS", 16)
    monkeypatch.setattr(planning, "MOST_ROWS", 16)


def slowly(_: Progress) -> None:
    time.sleep(0.02)


def test_a_backup_is_the_corpus_at_its_number(rag: Ragstone, elsewhere: Ragstone, repo: str) -> None:
    """While two collections are written and searched, each backup has of both what was alive at their numbers.

    So says the change log, to the chunk; and the embeddings are those that were written.
    """
    loads = {name: Load(rag, name) for name in ("one", "two")}
    with loads["one"].running(), loads["two"].running():
        time.sleep(0.1)
        made = [backup.create(rag, repo, incremental=incremental, watch=slowly) for incremental in (False, True)]
        time.sleep(0.1)
    for one in made:
        assert sorted(entry.name for entry in one.collections) == ["one", "two"]
        for entry in one.collections:
            check_exact(rag, loads[entry.name], held(repo, one.id, entry.name), entry.sequence)
    assert [entry.parent for entry in made[1].collections] == [made[0].id] * 2
    assert {one.sequence for one in made[0].collections}.isdisjoint(one.sequence for one in made[1].collections)
    assert backup.verify(repo).ok
    backup.restore(elsewhere, repo)
    for entry in made[1].collections:
        restored = {(row.document_id, row.text, row.embedding) for row in rows_of(elsewhere, entry.name)}
        found = held(repo, made[1].id, entry.name).values()
        assert {(one.document_id, one.text) for one in found} == {row[:2] for row in restored}
        assert len(restored) == len(found) == entry.chunks


def check_exact(rag: Ragstone, load: Load, found: dict[int, Held], sequence: int) -> None:
    """A backup has the chunks that were born by a number and died after it."""
    state = load.state
    births, deaths = lives(rag, state)
    assert sequence < state.sequence - 10
    alive_now = set(ids_of(rag, state.name))
    alive_then = {
        id_ for id_ in alive_now | deaths.keys() if births[id_ >> 20] <= sequence < deaths.get(id_, sequence + 1)
    }
    assert found.keys() == alive_then
    assert len(found.keys() - alive_now) > 10  # deleted since
    assert {one.document_id: one.embedding for one in found.values()} == {
        one.document_id: load.texts[one.text] for one in found.values()
    }
    assert len({one.document_id for one in found.values()}) == len(found)
    assert set(load.rounds) == {"_upsert", "_replace", "_delete", "_search"}
    assert min(load.rounds.values()) > 10


def lives(rag: Ragstone, state: CollectionState) -> tuple[dict[int, int], dict[int, int]]:
    """The change log: at which number each block of ids was written, and each id deleted.

    `changes_after` may leave a chunk out of the change that wrote it, if a later one has deleted it: its block
    says when that was.
    """
    with rag.database.connection() as connection:
        births = connection.execute("SELECT block, sequence FROM ragstone.change WHERE collection_id = %s", [state.id])
        born = {int(block): int(number) for block, number in births}
        deletes = connection.execute(
            "SELECT t.chunk_id, c.sequence FROM ragstone.tombstone t "
            "JOIN ragstone.change c USING (collection_id, block) WHERE collection_id = %s",
            [state.id],
        )
        return born, {int(id_): int(number) for id_, number in deletes}


def held(repo: str, backup_id: str, name: str) -> dict[int, Held]:
    """What a backup holds of a collection: its live runs, and the rows of its chain's files with those ids."""
    repository = Repository.open(repo)
    manifest = load(repository, backup_id, None)
    [entry] = [one for one in manifest.collections if one.name == name]
    live = live_runs(repository, backup_id, entry)
    found: dict[int, Held] = {}
    for link_id, link in chain(repository, manifest, entry, None):
        for file in link.of_kind("chunks"):
            data = read_file(repository, link_id, file)
            for batch in read_chunks(data, file, file.name, entry.dimension, entry.precision):
                ids = batch.column("id").to_numpy()
                columns = (batch.column(column).to_pylist() for column in ("document_id", "text"))
                rows = zip(ids.tolist(), *columns, embeddings_of(batch), strict=True)
                alive = live.contains(ids)
                found |= {
                    id_: Held(document_id, text, np.asarray(embedding).tobytes())
                    for (id_, document_id, text, embedding), is_alive in zip(rows, alive, strict=True)
                    if is_alive
                }
    assert len(found) == live.count
    return found


def test_a_collection_that_is_deleted_meanwhile(rag: Ragstone, elsewhere: Ragstone, repo: str) -> None:
    """It is left out and named, the other one is complete; its delete waits for a piece, not for the backup."""
    for name in ("doomed", "kept"):
        fill(rag.create_collection(name, dimension=DIMENSION))
    waited_s, deleted, ended = [], threading.Event(), threading.Event()

    def delete() -> None:
        began_s = time.monotonic()
        rag.delete_collection("doomed")
        waited_s.append(time.monotonic() - began_s)
        assert not ended.is_set()
        deleted.set()

    deleting = threading.Thread(target=delete)

    def watch(progress: Progress) -> None:
        if progress.done >= 100 and not deleting.ident:
            deleting.start()
        time.sleep(0.02)

    made = backup.create(rag, repo, watch=watch)
    ended.set()
    deleting.join()
    assert deleted.is_set()
    assert made.duration_s > 3 * waited_s[0]
    assert (made.left_out, [one.name for one in made.collections]) == (["doomed"], ["kept"])
    found = backup.verify(repo)
    assert found.problems == []
    backup.restore(elsewhere, repo)
    assert elsewhere.collections() == ["kept"]
    check_same(rag, "kept", elsewhere)


def test_a_collection_that_is_deleted_before_it_is_read(rag: Ragstone, repo: str) -> None:
    """One that is gone when its turn comes is left out too, and what an incremental had of it before stays good."""
    for name in ("doomed", "kept"):
        fill(rag.create_collection(name, dimension=DIMENSION))
    first = backup.create(rag, repo)

    def watch(progress: Progress) -> None:
        if "doomed" in rag.collections():
            rag.delete_collection("doomed")

    rag.collection("kept").delete(ids=["d1"])
    rag.collection("kept").upsert_embeddings(["d1"], drawn(1, 5), ["again"])
    rag.collection("doomed").upsert_embeddings(names(0, 40), drawn(40, 5), ["again"] * 40)
    made = backup.create(rag, repo, incremental=True, jobs=1, watch=watch)
    assert [one.name for one in made.collections] + made.left_out == ["kept", "doomed"]
    assert backup.verify(repo).problems == []
    backup.restore(rag, repo, first.id, collections=["doomed"])
    assert rag.collection("doomed").count() == DOCUMENTS
    with pytest.raises(CollectionNotFound):
        backup.restore(rag, repo, made.id, collections=["doomed"], as_name="other")


def test_a_collection_that_is_deleted_before_it_is_planned(
    rag: Ragstone, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the snapshot still shows, but whose tables are gone when its ids are read, is left out as well."""
    for name in ("doomed", "kept"):
        fill(rag.create_collection(name, dimension=DIMENSION))

    def late(reader: SnapshotReader, collection: CollectionState, parent: Parent | None) -> Plan:
        if collection.name == "doomed":
            rag.delete_collection("doomed")
        return plan_collection(reader, collection, parent)

    monkeypatch.setattr("ops.backup.creating.plan_collection", late)
    made = backup.create(rag, repo)
    assert ([one.name for one in made.collections], made.left_out) == (["kept"], ["doomed"])
    assert backup.verify(repo).problems == []


def fill(collection: Collection) -> None:
    ids = names(0, DOCUMENTS)
    collection.upsert_embeddings(ids, drawn(DOCUMENTS, 1), [f"text of {id_}" for id_ in ids])
