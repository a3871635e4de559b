"""Backups that are old, failed or not proven, and restores that were left in the middle."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import retrieval
from backends.corpus import staging
from backends.corpus.backups import BackupRun, record_run
from backends.corpus.collections import find_collection
from backends.errors import CollectionNotFound
from ops import backup
from ops.cli import backup as commands
from ops.health import backups
from ops.health.check import Check, CheckFunction, Subject
from retrieval import Ragstone
from retrieval.config import load
from tests.health.watched import corpus_of_its_own, made_in

HOUR = timedelta(hours=1)
RUN = BackupRun(
    kind="create",
    repository="s3://a-bucket/of-mine",
    backup_id="20261125T143012.123456Z-full",
    depth=None,
    ok=True,
    problem=None,
    chunks=7,
    size_bytes=7_000,
    duration_s=1.5,
)


@pytest.fixture(scope="module")
def corpus(postgres_url: str) -> Iterator[Ragstone]:
    settings = load(embedding_model="hashing")
    with corpus_of_its_own(postgres_url, "health_backups") as url, retrieval.open(url, settings=settings) as rag:
        yield rag


@pytest.fixture
def rag(corpus: Ragstone) -> Iterator[Ragstone]:
    """A corpus with one collection, and without a backup."""
    made_in(corpus, count=30)
    yield corpus
    corpus.delete_collection("handbook")
    with corpus.database.connection() as connection:
        connection.execute("TRUNCATE ragstone.backup_run")


def look(rag: Ragstone, function: CheckFunction) -> Check:
    (check,) = function(Subject(rag=rag))
    return check


def ended(rag: Ragstone, run: BackupRun, ago: timedelta) -> None:
    record_run(rag.database, replace(run, finished_at=datetime.now(UTC) - ago))


def test_no_backup_was_ever_made(rag: Ragstone) -> None:
    """That is a warning with the command, but where there is nothing to back up."""
    check = look(rag, backups.backup_age)
    assert (check.level, check.detail, check.value) == ("warn", "no backup was ever made", None)
    assert "ragstone backup create" in check.hint
    assert look(rag, backups.backup_verified).level == "ok"  # there is nothing to prove
    rag.delete_collection("handbook")
    assert look(rag, backups.backup_age).level == "ok"
    made_in(rag, count=1)


def test_a_backup_that_grows_old(rag: Ragstone) -> None:
    """A day and two hours are well, more is a warning, more than eight days critical; the next one ends that."""
    for hours, level in ((9 * 24, "crit"), (30, "warn"), (25, "ok")):
        ended(rag, RUN, hours * HOUR)
        check = look(rag, backups.backup_age)
        assert (check.level, check.value) == (level, pytest.approx(hours * 3_600, abs=60))


def test_a_backup_that_failed(rag: Ragstone) -> None:
    """The last one's failure is critical, whatever was before, until one succeeds."""
    ended(rag, RUN, 2 * HOUR)
    ended(rag, replace(RUN, ok=False, problem="the bucket is full"), HOUR)
    check = look(rag, backups.backup_age)
    assert (check.level, "the bucket is full" in check.detail) == ("crit", True)
    ended(rag, RUN, 0 * HOUR)
    assert look(rag, backups.backup_age).level == "ok"


def test_a_backup_that_is_not_proven(rag: Ragstone) -> None:
    """Sizes prove nothing; hashes and drills do, for eight days."""
    ended(rag, RUN, HOUR)
    assert look(rag, backups.backup_verified).level == "warn"
    ended(rag, replace(RUN, kind="verify", depth="sizes"), HOUR)
    assert look(rag, backups.backup_verified).detail == "no backup was ever proven"
    for depth in ("hashes", "drill"):
        ended(rag, replace(RUN, kind="verify", depth=depth), 9 * 24 * HOUR)
        assert look(rag, backups.backup_verified).level == "warn"
    ended(rag, replace(RUN, kind="verify", depth="hashes"), 7 * 24 * HOUR)
    assert look(rag, backups.backup_verified).level == "ok"


def verified(rag: Ragstone, repository: str) -> bool:
    """Verify as the command does, which writes down how it ended."""
    found = backup.verify(repository, depth="hashes")
    record_run(rag.database, commands._ended(found, repository))
    return found.ok


def test_a_real_backup_that_rots(rag: Ragstone, tmp_path: Path) -> None:
    """A flipped bit in a repository is critical from the verification that finds it until one that finds none."""
    repository = str(tmp_path)
    backup.create(rag, repository)
    assert look(rag, backups.backup_age).level == "ok"
    assert look(rag, backups.backup_verified).level == "warn"
    assert verified(rag, repository)
    assert look(rag, backups.backup_verified).level == "ok"
    shard = max((path for path in tmp_path.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert not verified(rag, repository)
    check = look(rag, backups.backup_verified)
    assert (check.level, check.detail.startswith("the last verification failed")) == ("crit", True)
    assert look(rag, backups.backup_age).level == "ok"
    shard.write_bytes(whole)
    assert verified(rag, repository)
    assert look(rag, backups.backup_verified).level == "ok"


def test_a_restore_that_was_left(rag: Ragstone) -> None:
    """Begun and left for an hour it is a warning, while somebody works on it none; after a week it can be removed."""
    assert look(rag, backups.restore_left).level == "ok"
    spec = rag.collection("handbook")._state.spec
    source = staging.Source(
        backup_id="20261125T143012.123456Z-full",
        checksum="0" * 64,
        spec=spec,
        stamp=None,
        sequence=1,
        placement_threshold=None,
        recall_target=None,
        pinned_backend=None,
    )
    staged = staging.stage(rag.database, "restored", source, "pgvector", rag.delete_collection)
    assert look(rag, backups.restore_left).level == "ok"
    left_for(rag, 2 * HOUR)
    check = look(rag, backups.restore_left)
    assert (check.level, check.value, "restored" in check.detail) == ("warn", 1, True)
    assert backups.FIXES["restore_left"](rag, check) is None  # somebody may still go on with it
    with staging.restore_locks(rag.database, ["restored"]):
        assert look(rag, backups.restore_left).level == "ok"
    left_for(rag, 8 * 24 * HOUR)
    fix = backups.FIXES["restore_left"](rag, look(rag, backups.restore_left))
    assert fix is not None
    fix.run()
    assert look(rag, backups.restore_left).level == "ok"
    with pytest.raises(CollectionNotFound):
        find_collection(rag.database, staged.name)


def left_for(rag: Ragstone, ago: timedelta) -> None:
    with rag.database.connection() as connection:
        connection.execute("UPDATE ragstone.restore SET changed_at = now() - %s", [ago])
