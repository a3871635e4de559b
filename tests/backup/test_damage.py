"""Damage at positions that hypothesis draws: a verification finds every one, and names the file."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from backends.errors import BackupDamaged, BackupNotFound
from ops.backup.chains import list_backups
from ops.backup.manifest import MANIFEST, STARTED, VERIFIED
from ops.backup.progress import Progress
from ops.backup.repository import Repository
from ops.backup.sealing import seal
from ops.backup.verifying import check_sizes, verify
from tests.backup.made import NOON, put_full, put_incremental, put_step

KEY = "a key of sixteen characters"
HOUR = timedelta(hours=1)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Subject(NamedTuple):
    """A chain of three backups, whole, and the paths of all its files below `root`."""

    root: Path
    tip: str
    paths: list[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    root = tmp_path_factory.mktemp("whole")
    repository = Repository.open(str(root))
    made = put_full(repository)
    for hours in (1, 2):
        made = put_incremental(repository, made, NOON + hours * HOUR)
    return Subject(root, made.id, sorted(str(path.relative_to(root)) for path in root.rglob("*.*") if path.is_file()))


@pytest.fixture
def fresh(whole: Subject, tmp_path: Path) -> Callable[[], Path]:
    """Gives a copy of the chain to damage, at every call a new one."""

    def copy() -> Path:
        root = tmp_path / "damaged"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(whole.root, root)
        return root

    return copy


def problems_of(root: Path, tip: str, key: str | None = None) -> list[str]:
    """The files that a verification of the tip complains of; none of them, and it says that all is well."""
    found = verify(str(root), tip, key=key)
    assert found.ok == (not found.problems)
    return [file for file, _ in found.problems]


def test_a_whole_chain_is_found_whole(whole: Subject, fresh: Callable[[], Path]) -> None:
    """The undamaged chain passes at both depths, and its bytes, files and chunks are counted."""
    root = fresh()
    told: list[Progress] = []
    found = verify(str(root), watch=told.append)
    shards = [path for path in whole.paths if path.endswith(".parquet")]
    assert (found.backup_id, found.ok, found.problems) == (whole.tip, True, [])
    assert (found.files, found.chunks) == (len(shards), 16)
    assert found.size_bytes == sum((root / path).stat().st_size for path in shards)
    assert (told[-1].done, told[-1].unit) == (found.size_bytes, "bytes")
    assert verify(str(root), depth="sizes").ok


@quick
@given(data=st.data())
def test_a_flipped_bit_is_found(data: st.DataObject, whole: Subject, fresh: Callable[[], Path]) -> None:
    """Whichever bit of whichever file is another, the file is named."""
    root = fresh()
    path = data.draw(st.sampled_from(whole.paths))
    content = bytearray((root / path).read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    (root / path).write_bytes(content)
    assert path in problems_of(root, whole.tip)


@quick
@given(data=st.data())
def test_a_file_of_another_length_is_found(data: st.DataObject, whole: Subject, fresh: Callable[[], Path]) -> None:
    """A file that was cut, or has bytes too many, is named, at the least depth too."""
    root = fresh()
    path = data.draw(st.sampled_from(whole.paths))
    content = (root / path).read_bytes()
    end = data.draw(st.integers(0, len(content) - 1) | st.none())
    (root / path).write_bytes(content + b"\0" if end is None else content[:end])
    found = verify(str(root), whole.tip, depth="sizes")
    assert path in [file for file, _ in found.problems]


@quick
@given(data=st.data())
def test_a_missing_file_is_found(data: st.DataObject, whole: Subject, fresh: Callable[[], Path]) -> None:
    """A file that is gone is named; without its manifest the tip is no complete backup any more."""
    root = fresh()
    path = data.draw(st.sampled_from(whole.paths))
    (root / path).unlink()
    if path == f"{whole.tip}/{MANIFEST}":
        with pytest.raises(BackupNotFound, match=whole.tip):
            verify(str(root), whole.tip)
        return
    assert problems_of(root, whole.tip) == [path]


@quick
@given(data=st.data())
def test_swapped_files_are_found(data: st.DataObject, whole: Subject, fresh: Callable[[], Path]) -> None:
    """Where two files have changed places, both are named, unless one is a manifest, without which none is known."""
    root = fresh()
    one, other = data.draw(st.lists(st.sampled_from(whole.paths), min_size=2, max_size=2, unique=True))
    first, second = (root / one).read_bytes(), (root / other).read_bytes()
    assume(first != second)
    (root / one).write_bytes(second)
    (root / other).write_bytes(first)
    found = problems_of(root, whole.tip)
    manifests = {path for path in (one, other) if path.endswith(MANIFEST)}
    assert manifests & set(found) if manifests else {one, other} <= set(found)


@quick
@given(
    name=st.sampled_from(["c7-chunks-000009.parquet", "c8-live.parquet", "notes.txt", ".hidden", "manifest.json.old"])
    | st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
    content=st.binary(max_size=10),
    data=st.data(),
)
def test_an_added_file_is_found(
    name: str, content: bytes, data: st.DataObject, whole: Subject, fresh: Callable[[], Path]
) -> None:
    """A file that no manifest names is named, whatever it is called."""
    root = fresh()
    folder = data.draw(st.sampled_from(sorted({path.split("/")[0] for path in whole.paths})))
    assume(name not in (".", "..", VERIFIED) and f"{folder}/{name}" not in whole.paths)
    (root / folder / name).write_bytes(content)
    assert problems_of(root, whole.tip) == [f"{folder}/{name}"]


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_is_no_file_is_found(kind: str, whole: Subject, fresh: Callable[[], Path], tmp_path: Path) -> None:
    """A symbolic link in the place of a shard, or a folder, is damage, and is not followed."""
    root = fresh()
    shard = root / whole.paths[0]
    kept = tmp_path / "kept"
    shard.rename(kept)
    shard.symlink_to(kept) if kind == "link" else shard.mkdir()
    [(file, problem)] = verify(str(root), whole.tip).problems
    assert (file, shard.name in problem) == (shard.parent.name, True)
    with pytest.raises(BackupDamaged):
        Repository.open(str(root)).read(shard.parent.name, shard.name, kept.stat().st_size)


def test_a_linked_backup_is_damaged(whole: Subject, fresh: Callable[[], Path], tmp_path: Path) -> None:
    """A backup's folder that is a symbolic link is not followed."""
    root = fresh()
    (root / whole.tip).rename(tmp_path / "elsewhere")
    (root / whole.tip).symlink_to(tmp_path / "elsewhere")
    assert list(list_backups(str(root)).damaged) == [whole.tip]
    assert not verify(str(root)).ok


def test_all_damage_is_reported(whole: Subject, fresh: Callable[[], Path]) -> None:
    """One verification names everything that is wrong."""
    root = fresh()
    shards = [path for path in whole.paths if "chunks" in path]
    for path in shards:
        content = bytearray((root / path).read_bytes())
        content[len(content) // 2] ^= 1
        (root / path).write_bytes(content)
    (root / whole.tip / STARTED).unlink()
    assert problems_of(root, whole.tip) == sorted([*shards, f"{whole.tip}/{STARTED}"])
    with pytest.raises(BackupDamaged, match=STARTED):
        check_sizes(Repository.open(str(root)), list_backups(str(root)).complete[-1], None)


@quick
@given(data=st.data())
def test_a_forged_manifest_is_found_with_a_key(data: st.DataObject, tmp_path: Path) -> None:
    """Who changes a manifest and works its checksum out anew is found by the signature, and only by it."""
    root = tmp_path / "signed"
    shutil.rmtree(root, ignore_errors=True)
    repository = Repository.open(str(root), create=True)
    made = put_incremental(repository, put_full(repository, key=KEY), NOON + HOUR, KEY)
    backup_id = data.draw(st.sampled_from(repository.folders()))
    path = root / backup_id / MANIFEST
    content = json.loads(path.read_bytes())["manifest"]
    content["collections"][0]["name"] = "others"
    path.write_bytes(
        seal("manifest", content, data.draw(st.none() | st.text(min_size=16).filter(lambda key: key != KEY)))
    )
    assert problems_of(root, made.id, KEY) == [f"{backup_id}/{MANIFEST}"]
    assert f"{backup_id}/{MANIFEST}" not in problems_of(root, made.id)


BEFORE = [*range(1, 8), *range(10, 15)]
STEPS = {  # new ids, live ids, deleted ids, and the file that cannot be right
    "deletes what was not there": ([20], [*BEFORE, 20], [9], "deletes"),
    "lives from nowhere": ([20], [*BEFORE, 21], [], "live"),
    "loses one without a word": ([20], [*BEFORE[1:], 20], [], "live"),
    "brings one again": ([1], BEFORE, [], "live"),
}


@pytest.mark.parametrize(("new", "live", "deleted", "kind"), STEPS.values(), ids=STEPS)
def test_files_that_do_not_add_up_are_found(
    new: list[int], live: list[int], deleted: list[int], kind: str, tmp_path: Path
) -> None:
    """Files that are each as their manifest says are damage where they do not fit each other."""
    repository = Repository.open(str(tmp_path))
    made = put_step(repository, put_full(repository), NOON + HOUR, new, live, deleted)
    assert problems_of(tmp_path, made.id) == [f"{made.id}/c7-{kind}.parquet"]


def test_a_manifest_that_miscounts_is_found(tmp_path: Path) -> None:
    """A collection that holds fewer ids than its manifest says is damage."""
    repository = Repository.open(str(tmp_path))
    made = put_step(repository, put_full(repository), NOON + HOUR, [20], [*BEFORE[1:], 20], [1])
    content = json.loads((tmp_path / made.id / MANIFEST).read_bytes())["manifest"]
    content["collections"][0]["chunks"] += 1
    repository.write(made.id, MANIFEST, seal("manifest", content, None))
    assert problems_of(tmp_path, made.id) == [f"{made.id}/c7-live.parquet"]


def test_a_record_remembers_what_went_before(whole: Subject, fresh: Callable[[], Path]) -> None:
    """A failed verification does not hide the good one before it, nor a shallow one the failed one."""
    root = fresh()
    shard = root / next(path for path in whole.paths if path.startswith(whole.tip) and "chunks" in path)
    content = shard.read_bytes()
    verify(str(root))
    proven = list_backups(str(root)).verifications[whole.tip]
    shard.write_bytes(content[:-1] + b"?")
    verify(str(root))
    failed = list_backups(str(root)).verifications[whole.tip]
    assert verify(str(root), depth="sizes").ok
    shallow = list_backups(str(root)).verifications[whole.tip]
    shard.write_bytes(content)
    verify(str(root))
    assert proven.is_proven
    assert (failed.is_proven, failed.proven, failed.last.ok) == (False, proven.last, False)
    assert str(shard.relative_to(root)) in (failed.last.problem or "")
    assert (shallow.is_proven, shallow.failed, shallow.last.depth) == (False, failed.last, "sizes")
    assert list_backups(str(root)).verifications[whole.tip].is_proven


def test_a_damaged_record_is_named_and_replaced(whole: Subject, fresh: Callable[[], Path]) -> None:
    """What an earlier verification wrote down is checked too; the next verification finds it whole again."""
    root = fresh()
    verify(str(root))
    record = root / whole.tip / VERIFIED
    record.write_bytes(record.read_bytes().replace(b"true", b"false"))
    assert whole.tip not in list_backups(str(root)).verifications
    assert problems_of(root, whole.tip) == [f"{whole.tip}/{VERIFIED}"]
    assert problems_of(root, whole.tip) == []


def test_a_verification_can_be_cancelled(whole: Subject, fresh: Callable[[], Path]) -> None:
    """What the watch raises ends the verification, and nothing is remembered of it."""

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    root = fresh()
    with pytest.raises(KeyboardInterrupt):
        verify(str(root), watch=stop)
    assert list_backups(str(root)).verifications == {}


def test_what_a_killed_verification_left_is_no_damage(whole: Subject, fresh: Callable[[], Path]) -> None:
    """The unfinished record of a verification that was killed does not make the backup look damaged."""
    root = fresh()
    (root / whole.tip / f".{VERIFIED}.0123456789abcdef.unfinished").write_bytes(b"{")
    assert problems_of(root, whole.tip) == []
