"""What is removed, and what never is: parents of what is kept, the only proven backup, whatever cannot be read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backends.errors import InvalidInput, RepositoryUnavailable
from ops.backup.chains import list_backups
from ops.backup.manifest import MANIFEST, STARTED, Manifest, new_id
from ops.backup.pruning import prune
from ops.backup.repository import Repository
from ops.backup.verifying import verify
from tests.backup.made import NOON, put_full, put_incremental

DAY = timedelta(days=1)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.open(str(tmp_path))


@pytest.fixture
def made(repository: Repository) -> list[Manifest]:
    """Two weeks of a full backup and two that go on from it: full, and, and, full, and, and."""
    backups: list[Manifest] = []
    for day in range(6):
        moment = NOON + day * DAY
        backups.append(put_incremental(repository, backups[-1], moment) if day % 3 else put_full(repository, moment))
    return backups


def ids(made: list[Manifest], *numbers: int) -> list[str]:
    return [made[number].id for number in numbers]


def test_the_newest_stay_with_their_parents(repository: Repository, made: list[Manifest]) -> None:
    """Of the newest two, both go on from the last full one: the three of them stay, and it is said why."""
    size_bytes = sum(sum(repository.files(backup_id).values()) for backup_id in ids(made, 0, 1, 2))
    pruned = prune(repository.url, keep_last=2)
    assert pruned.kept == repository.folders() == ids(made, 3, 4, 5)
    assert pruned.removed == ids(made, 0, 1, 2)
    assert pruned.reasons == {made[3].id: f"{made[4].id} goes on from it"}
    assert (pruned.freed_bytes, pruned.damaged) == (size_bytes, {})
    assert verify(repository.url).ok


def test_nothing_is_removed_in_a_dry_run(repository: Repository, made: list[Manifest], tmp_path: Path) -> None:
    """A dry run says what would be done, and does nothing."""
    before = sorted(tmp_path.rglob("*"))
    planned = prune(repository.url, keep_last=1, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert planned == prune(repository.url, keep_last=1)
    assert planned.removed == ids(made, 0, 1, 2)


def test_all_stay_where_there_are_fewer(repository: Repository, made: list[Manifest]) -> None:
    """More than there are is no error, and none is removed."""
    assert prune(repository.url, keep_last=100).kept == [one.id for one in made]


def test_the_only_proven_backup_stays(repository: Repository, made: list[Manifest]) -> None:
    """Where none of the newest is proven, the newest proven one stays, with its parents, until another is."""
    verify(repository.url, made[0].id)
    verify(repository.url, made[1].id)
    verify(repository.url, made[5].id, depth="sizes")  # proves nothing
    pruned = prune(repository.url, keep_last=1)
    assert pruned.kept == ids(made, 0, 1, 3, 4, 5)
    assert pruned.reasons[made[1].id] == "it is the newest that is proven"
    assert pruned.reasons[made[0].id] == f"{made[1].id} goes on from it"
    verify(repository.url, made[5].id)
    assert prune(repository.url, keep_last=1).kept == ids(made, 3, 4, 5)


def test_one_that_failed_since_is_not_proven(repository: Repository, made: list[Manifest], tmp_path: Path) -> None:
    """A backup that was found damaged after it was proven does not stand for the older proven one."""
    verify(repository.url, made[0].id)
    verify(repository.url, made[5].id)
    shard = tmp_path / made[5].id / "c7-live.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert not verify(repository.url, made[5].id).ok
    assert prune(repository.url, keep_last=1).kept == ids(made, 0, 3, 4, 5)


def test_unfinished_ones_go_after_a_day(repository: Repository, made: list[Manifest]) -> None:
    """What another process may still write stays; what it left behind goes, unfinished files and all."""
    now = datetime.now(UTC)
    young, old = new_id(now - 0.9 * DAY, "full"), new_id(now - 1.1 * DAY, "full")
    for backup_id in (young, old):
        repository.write(backup_id, STARTED, b"{}")
    (Path(repository.url) / old / ".c7-live.parquet.0123456789abcdef.unfinished").write_bytes(b"PAR1")
    pruned = prune(repository.url, keep_last=100)
    assert (pruned.incomplete_removed, pruned.freed_bytes) == ([old], 6)
    assert (young in repository.folders(), old in repository.folders()) == (True, False)


def test_damaged_ones_stay_and_do_not_count(repository: Repository, made: list[Manifest], tmp_path: Path) -> None:
    """A backup that cannot be read is named and left alone, as are those that lack their parent; others are kept."""
    (tmp_path / made[3].id / MANIFEST).write_bytes(b"{")
    pruned = prune(repository.url, keep_last=1)
    assert list(pruned.damaged) == ids(made, 3, 4, 5)
    assert pruned.kept == ids(made, 0, 1, 2)
    assert repository.folders() == [one.id for one in made]


def test_what_damaged_ones_go_on_from_stays(repository: Repository, made: list[Manifest], tmp_path: Path) -> None:
    """Who mends a damaged backup finds its parents there still."""
    (tmp_path / made[2].id / "folder").mkdir()
    pruned = prune(repository.url, keep_last=1)
    assert list(pruned.damaged) == [made[2].id]
    assert pruned.kept == ids(made, 0, 1, 3, 4, 5)
    assert pruned.reasons[made[1].id] == f"{made[2].id} goes on from it"


def test_a_parent_without_a_manifest_is_not_unfinished(
    repository: Repository, made: list[Manifest], tmp_path: Path
) -> None:
    """A backup that others go on from was complete once: that its manifest is gone is damage, and the rest stays."""
    (tmp_path / made[0].id / MANIFEST).unlink()
    pruned = prune(repository.url, keep_last=1)
    assert pruned.incomplete_removed == []
    assert list(pruned.damaged) == ids(made, 1, 2)
    assert repository.folders() == [one.id for one in made]


def test_with_the_wrong_key_nothing_is_removed(repository: Repository, made: list[Manifest]) -> None:
    """To whoever has another key every backup looks damaged, and none is removed."""
    pruned = prune(repository.url, keep_last=1, key="a key of sixteen characters")
    assert (pruned.removed, len(pruned.damaged)) == ([], len(made))
    assert len(repository.folders()) == len(made)


def test_children_go_first(repository: Repository, made: list[Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pruning that is interrupted leaves no backup without its parent."""
    removed: list[str] = []

    def remove(self: Repository, backup_id: str) -> None:
        removed.append(backup_id)
        if len(removed) == 2:
            raise RepositoryUnavailable("away")
        remove_backup(self, backup_id)

    remove_backup = Repository.remove_backup
    monkeypatch.setattr(Repository, "remove_backup", remove)
    with pytest.raises(RepositoryUnavailable):
        prune(repository.url, keep_last=1)
    assert removed == ids(made, 2, 1)
    assert list_backups(repository.url).complete == [made[0], made[1], *made[3:]]


@pytest.mark.parametrize("keep_last", [0, -1])
def test_the_newest_is_never_removed(keep_last: int, repository: Repository, made: list[Manifest]) -> None:
    """At least one backup is to be kept."""
    with pytest.raises(InvalidInput, match="keep_last"):
        prune(repository.url, keep_last=keep_last)
    assert len(repository.folders()) == len(made)
