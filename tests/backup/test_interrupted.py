"""Backups and restores that are stopped, gone on with, or meet another process at the same work."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backends.corpus.collections import CollectionState
from backends.corpus.moves import latest_moves
from backends.corpus.staging import Loader
from backends.errors import CollectionExists, Conflict
from backends.pgvector import PgvectorIndex
from ops import backup
from ops.backup import indexing
from ops.backup.manifest import new_id
from ops.backup.progress import Progress
from retrieval import Ragstone
from tests.backup.made import NOON
from tests.backup.subject import (
    DIMENSION,
    DOCUMENTS,
    Stopped,
    check_same,
    folders,
    hidden,
    names,
    put,
    stop_in,
    tables,
)


def test_an_interrupted_restore_goes_on(
    rag: Ragstone, elsewhere: Ragstone, own: backup.Backup, repo: str, files_loaded: list[str]
) -> None:
    """What was loaded before an interruption is not loaded again, and the result is that of one in one go."""
    with pytest.raises(Stopped):
        backup.restore(elsewhere, repo, watch=stop_in("loading own", 100))
    before = list(files_loaded)
    files_loaded.clear()
    assert 3 <= len(before) < 10
    assert len(hidden(elsewhere)) == 1
    told: list[Progress] = []
    restored = backup.restore(elsewhere, repo, watch=told.append)
    assert len(files_loaded) == 10 - len(before)
    assert set(files_loaded).isdisjoint(before)
    assert told[0].done == 30 * len(before)
    assert (restored.collections[0].chunks, hidden(elsewhere)) == (DOCUMENTS, [])
    check_same(rag, "own", elsewhere)
    with elsewhere.database.connection() as connection:
        assert connection.execute("SELECT FROM ragstone.restored_shard").fetchall() == []


def test_interrupted_within_a_file(
    rag: Ragstone, elsewhere: Ragstone, own: backup.Backup, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that was loaded in part, nothing is there when it is loaded again."""
    copy, copied = Loader._copy, []

    def fails(self: Loader, name: str, staged: CollectionState, blocks: Any) -> None:
        copied.append(name)
        if copied.count("copy_embeddings") == 4:
            raise Stopped
        copy(self, name, staged, blocks)

    with monkeypatch.context() as patched:
        patched.setattr(Loader, "_copy", fails)
        with pytest.raises(Stopped):
            backup.restore(elsewhere, repo)
    backup.restore(elsewhere, repo)
    check_same(rag, "own", elsewhere)


BUILD = PgvectorIndex.build_missing


def slow_build(index: PgvectorIndex) -> bool:
    time.sleep(0.2)
    return BUILD(index)


@pytest.mark.parametrize("backend", ["pgvector", "faiss"])
def test_interrupted_while_the_index_is_built(
    rag: Ragstone,
    elsewhere: Ragstone,
    own: backup.Backup,
    repo: str,
    files_loaded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
) -> None:
    """Everything is loaded by then: only the index is built again."""
    monkeypatch.setattr(indexing, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(PgvectorIndex, "build_missing", slow_build)
    with pytest.raises(Stopped):
        backup.restore(elsewhere, repo, backend=backend, watch=stop_in(f"building the {backend}", 0))
    assert (elsewhere.collections(), len(files_loaded)) == ([], 10)
    backup.restore(elsewhere, repo, backend=backend)
    assert len(files_loaded) == 10
    assert elsewhere.collection("own").info().backend == backend
    check_same(rag, "own", elsewhere)


@pytest.mark.parametrize(("first", "second"), [("faiss", "pgvector"), ("faiss", None), ("pgvector", "faiss")])
def test_gone_on_with_into_another_backend(
    rag: Ragstone,
    elsewhere: Ragstone,
    own: backup.Backup,
    repo: str,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    second: str | None,
) -> None:
    """The collection ends where the last order sends it, wherever an earlier try had brought it."""

    def never(*_: object) -> list[str]:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr("ops.backup.restoring.staging.switch", never)
        with pytest.raises(Stopped):
            backup.restore(elsewhere, repo, backend=first)
    restored = backup.restore(elsewhere, repo, backend=second)
    info = elsewhere.collection("own").info()
    assert (info.backend, info.pinned_backend) == (second or "pgvector", second)
    assert restored.collections[0].backend == info.backend
    assert info.indexed
    check_same(rag, "own", elsewhere)


def test_a_move_that_was_begun_into_another_backend(
    rag: Ragstone, elsewhere: Ragstone, own: backup.Backup, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a try ended within the move into one backend, the next may still go to another."""
    with monkeypatch.context() as patched:
        patched.setattr("ops.moving.work_on", _killed)
        with pytest.raises(Stopped):
            backup.restore(elsewhere, repo, backend="faiss")
    backup.restore(elsewhere, repo, backend="pgvector")
    assert elsewhere.collection("own").info().backend == "pgvector"
    [move] = latest_moves(elsewhere.database)
    assert (move.target, move.phase) == ("faiss", "cancelled")  # nobody goes on with it
    check_same(rag, "own", elsewhere)


def _killed(*_: object) -> None:
    raise Stopped


def test_another_backup_begins_anew(
    rag: Ragstone, elsewhere: Ragstone, own: backup.Backup, repo: str, files_loaded: list[str]
) -> None:
    """What was loaded from another backup is thrown away, and nothing of it comes into the collection."""
    with pytest.raises(Stopped):
        backup.restore(elsewhere, repo, watch=stop_in("loading own", 100))
    [begun] = hidden(elsewhere)
    put(rag.collection("own"), names(0, 30), seed=7)
    newer = backup.create(rag, repo, incremental=True)
    files_loaded.clear()
    with pytest.raises(Stopped):
        backup.restore(elsewhere, repo, watch=stop_in("loading own", 100))
    assert hidden(elsewhere) != [begun]
    assert len(hidden(elsewhere)) == 1
    restored = backup.restore(elsewhere, repo)
    assert restored.backup_id == newer.id
    assert len(files_loaded) == len(set(files_loaded)) == 11
    assert (hidden(elsewhere), tables(elsewhere)) == ([], 2)
    check_same(rag, "own", elsewhere)


def test_another_backup_takes_a_faiss_index_away(
    elsewhere: Ragstone, own: backup.Backup, rag: Ragstone, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is thrown away takes its files on this machine along."""
    folder = Path(str(elsewhere.settings.index_folder))
    before = {path.name for path in folder.glob("*")}
    with monkeypatch.context() as patched:
        patched.setattr("ops.backup.restoring.staging.switch", _killed)
        with pytest.raises(Stopped):
            backup.restore(elsewhere, repo, backend="faiss")
    [left] = {path.name for path in folder.glob("*")} - before
    newer = backup.create(rag, repo)
    backup.restore(elsewhere, repo, newer.id)
    assert left not in {path.name for path in folder.glob("*")}


def test_the_name_is_taken_meanwhile(
    rag: Ragstone, elsewhere: Ragstone, own: backup.Backup, repo: str, soon: None
) -> None:
    """A collection that came into being during the restore is not overwritten; what was loaded can be used."""

    def watch(_: Progress) -> None:
        if not elsewhere.collections():
            put(elsewhere.create_collection("own", dimension=DIMENSION), ["mine"], seed=3)

    with pytest.raises(CollectionExists):
        backup.restore(elsewhere, repo, watch=watch)
    assert [one.id for one in elsewhere.collection("own").documents()] == ["mine"]
    told: list[Progress] = []
    backup.restore(elsewhere, repo, replace=["own"], watch=told.append)
    assert told[0].done == DOCUMENTS
    check_same(rag, "own", elsewhere)


def test_two_restores_of_one_name(rag: Ragstone, elsewhere: Ragstone, own: backup.Backup, repo: str) -> None:
    """Only one restores under a name at a time; under another name it may."""
    with paused(lambda watch: backup.restore(elsewhere, repo, watch=watch)):
        with pytest.raises(Conflict, match="another process restores 'own'"):
            backup.restore(elsewhere, repo)
        assert backup.restore(elsewhere, repo, as_name="other").collections[0].name == "other"
    assert elsewhere.collections() == ["other", "own"]
    for name in elsewhere.collections():
        check_same(rag, "own", elsewhere, name)


def test_two_backups_into_one_repository(rag: Ragstone, own: backup.Backup, repo: str, tmp_path: Path) -> None:
    """Only one process of a corpus writes to a repository at a time; into another one it may."""
    with paused(lambda watch: backup.create(rag, repo, watch=watch)):
        with pytest.raises(Conflict, match="another process makes a backup"):
            backup.create(rag, repo)
        backup.create(rag, str(tmp_path / "other"))
    assert len(backup.list_backups(repo).complete) == 2


class paused:  # noqa: N801  # used as a context manager
    """Something under way in a thread, which holds still at its first report until the block ends."""

    def __init__(self, work: Callable[[Callable[[Progress], None]], object]) -> None:
        self._reached, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._failures: list[BaseException] = []

    def __enter__(self) -> None:
        self._thread.start()
        assert self._reached.wait(30)

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._thread.join()
        assert self._failures == []

    def _run(self, work: Callable[[Callable[[Progress], None]], object]) -> None:
        try:
            work(self._watch)
        except BaseException as error:
            self._failures.append(error)
            self._reached.set()

    def _watch(self, _: Progress) -> None:
        self._reached.set()
        assert self._go.wait(30)


def test_a_cancelled_backup_leaves_nothing_behind(rag: Ragstone, own: backup.Backup, repo: str) -> None:
    """What was written is removed, earlier backups stay, and the next one goes on from those."""
    put(rag.collection("own"), names(0, 100), seed=3)
    with pytest.raises(Stopped):
        backup.create(rag, repo, incremental=True, watch=stop_in("writing", 60))
    assert folders(repo) == [own.id]
    assert backup.verify(repo).ok
    made = backup.create(rag, repo, incremental=True)
    assert made.collections[0].parent == own.id
    assert folders(repo) == [own.id, made.id]


def test_an_unfinished_backup_is_removed_by_the_next(rag: Ragstone, own: backup.Backup, repo: str) -> None:
    """What this corpus left unfinished goes; what another one did, or what cannot be told, stays."""
    ours, theirs, torn = (new_id(NOON - timedelta(days=n), "full") for n in (1, 2, 3))
    started = Path(repo, own.id, "started.json").read_bytes()
    other = started.replace(b'"system_identifier": ', b'"system_identifier": 1')[:-2] + b"}"
    for backup_id, content in ((ours, started), (theirs, other), (torn, b'{"system_iden')):
        Path(repo, backup_id).mkdir()
        Path(repo, backup_id, "started.json").write_bytes(content)
        Path(repo, backup_id, "c1-chunks-000001.parquet").write_bytes(b"PAR1")
    made = backup.create(rag, repo)
    assert folders(repo) == sorted([theirs, torn, own.id, made.id])
