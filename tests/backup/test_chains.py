"""What a repository holds, which backup is the right one, and what a backup goes on from."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backends.errors import BackupDamaged, BackupNotFound
from ops.backup.chains import at, chain, list_backups, load, look, newest
from ops.backup.manifest import MANIFEST, STARTED, Manifest, new_id
from ops.backup.repository import Repository
from ops.backup.sealing import seal
from ops.backup.verifying import verify
from tests.backup.made import NOON, put_full, put_incremental

HOUR = timedelta(hours=1)
KEY = "a key of sixteen characters"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.open(str(tmp_path))


@pytest.fixture
def backups(repository: Repository) -> list[Manifest]:
    """A full backup, two that go on from it one after the other, and another full one; an hour between them."""
    made = [put_full(repository)]
    for hours in (1, 2):
        made.append(put_incremental(repository, made[-1], NOON + hours * HOUR))
    return [*made, put_full(repository, NOON + 3 * HOUR)]


def rewrite(repository: Repository, manifest: Manifest, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest, and seal it again."""
    content = manifest.model_dump(mode="json")
    change(content)
    repository.write(manifest.id, MANIFEST, seal("manifest", content, None))


def test_a_repository_is_listed(repository: Repository, backups: list[Manifest], tmp_path: Path) -> None:
    """Complete ones are the oldest first; incomplete and damaged ones stand apart, and other folders are nobody's."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "notes.txt").touch()
    unfinished = new_id(NOON + 4 * HOUR, "full")
    repository.write(unfinished, STARTED, b"{}")
    (tmp_path / backups[1].id / MANIFEST).write_bytes(b"{")
    verify(str(tmp_path), backups[0].id)
    listing = list_backups(str(tmp_path))
    assert listing.complete == [backups[0], backups[2], backups[3]]
    assert listing.incomplete == [unfinished]
    assert {backup_id: damage.file for backup_id, damage in listing.damaged.items()} == {
        backups[1].id: f"{backups[1].id}/{MANIFEST}"
    }
    assert list(listing.verifications) == [backups[0].id]


def test_a_manifest_is_loaded_by_its_id(repository: Repository, backups: list[Manifest]) -> None:
    """An id that is none, that is not there or that is incomplete is not found, and the error says where to look."""
    assert load(repository, backups[1].id, None) == backups[1]
    repository.write(new_id(NOON + 4 * HOUR, "full"), STARTED, b"{}")
    for wrong in ("", "../x", "x" * 1_000, new_id(NOON + 5 * HOUR, "full"), new_id(NOON + 4 * HOUR, "full")):
        with pytest.raises(BackupNotFound, match="ragstone backup list") as caught:
            load(repository, wrong, None)
        assert len(str(caught.value)) < 300


def test_with_a_key_unsigned_backups_are_damaged(repository: Repository, backups: list[Manifest]) -> None:
    """Whoever sets a key sees every backup that was not signed with it as damaged."""
    signed = put_full(repository, NOON + 4 * HOUR, KEY)
    listing = look(repository, KEY)
    assert (listing.complete, len(listing.damaged)) == ([signed], len(backups))


def test_the_newest_backup_by_a_time(repository: Repository, backups: list[Manifest]) -> None:
    """A backup is the right one for every instant from its snapshot to the next one's."""
    listing = look(repository, None)
    assert newest(listing) == backups[3]
    assert at(listing, NOON + 2 * HOUR) == backups[2]
    assert at(listing, NOON + 3 * HOUR - timedelta(microseconds=1)) == backups[2]
    assert at(listing, NOON + HOUR, ["notes7"]) == backups[1]
    with pytest.raises(BackupNotFound, match="2024-02-29 11:59:59 UTC or before"):
        at(listing, NOON - timedelta(seconds=1))
    with pytest.raises(BackupNotFound, match="with others"):
        at(listing, None, ["others"])


def test_a_damaged_backup_is_not_passed_over(repository: Repository, backups: list[Manifest], tmp_path: Path) -> None:
    """Where a newer backup is damaged, an older one is not taken without a word."""
    (tmp_path / backups[2].id / MANIFEST).write_bytes(b"{")
    listing = look(repository, None)
    assert newest(listing) == backups[3]
    assert at(listing, NOON + HOUR) == backups[1]
    with pytest.raises(BackupDamaged, match=backups[2].id):
        at(listing, NOON + 2 * HOUR)
    shutil.rmtree(tmp_path / backups[3].id)
    with pytest.raises(BackupDamaged, match=backups[2].id):
        newest(look(repository, None))
    assert verify(str(tmp_path)).backup_id == backups[2].id


def test_an_empty_repository_has_no_newest(repository: Repository) -> None:
    """Nothing there is said as such."""
    with pytest.raises(BackupNotFound, match="no complete backup"):
        newest(look(repository, None))
    with pytest.raises(BackupNotFound, match="no complete backup"):
        verify(repository.url)


def test_a_chain_goes_from_the_full_backup_to_the_tip(repository: Repository, backups: list[Manifest]) -> None:
    """An incremental backup needs its parents, the complete one first; a full one only itself."""
    links = chain(repository, backups[2], backups[2].collections[0], None)
    assert [backup_id for backup_id, _ in links] == [made.id for made in backups[:3]]
    assert [entry for _, entry in links] == [made.collections[0] for made in backups[:3]]
    assert len(chain(repository, backups[3], backups[3].collections[0], None)) == 1


def test_a_missing_parent_is_damage(repository: Repository, backups: list[Manifest], tmp_path: Path) -> None:
    """A chain whose beginning is gone is damaged, and the error names what is missing and for whom."""
    shutil.rmtree(tmp_path / backups[0].id)
    with pytest.raises(BackupDamaged, match=f"it is missing; {backups[1].id} goes on from it") as caught:
        chain(repository, backups[2], backups[2].collections[0], None)
    assert caught.value.file == f"{backups[0].id}/{MANIFEST}"


def of_another_collection(content: dict[str, Any]) -> None:
    text = (
        json.dumps(content["collections"]).replace('"c7-', '"c8-').replace('"collection_id": 7', '"collection_id": 8')
    )
    content["collections"] = json.loads(text)


UNFIT: dict[str, Callable[[dict[str, Any]], None]] = {
    "has no collection 7": of_another_collection,
    "is of another corpus": lambda content: content.update(system_identifier=1),
    "another corpus": lambda content: content.update(timeline=2),
    "which has IndexSpec": lambda content: content["collections"][0].update(dimension=4, stamp=None),
    "metric='l2'": lambda content: content["collections"][0].update(metric="l2"),
    "is not older": lambda content: content["collections"][0].update(sequence=10**6),
}


@pytest.mark.parametrize(("problem", "change"), UNFIT.items(), ids=UNFIT)
def test_a_parent_must_fit(
    problem: str, change: Callable[[dict[str, Any]], None], repository: Repository, backups: list[Manifest]
) -> None:
    """A backup goes on from an older one of the same collection of the same corpus, and of nothing else."""
    rewrite(repository, backups[0], change)
    with pytest.raises(BackupDamaged, match=problem) as caught:
        chain(repository, backups[2], backups[2].collections[0], None)
    assert caught.value.file == f"{backups[1].id}/{MANIFEST}"


def test_a_chain_has_no_circle(repository: Repository, backups: list[Manifest]) -> None:
    """A backup that goes on from a later one is refused when it is read, so that no walk is without end."""
    rewrite(repository, backups[1], lambda content: content["collections"][0].update(parent=backups[2].id))
    with pytest.raises(BackupDamaged, match="an older backup") as caught:
        chain(repository, backups[2], backups[2].collections[0], None)
    assert caught.value.file == f"{backups[1].id}/{MANIFEST}"
