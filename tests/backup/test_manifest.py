"""What a backup says of itself is read only where it is whole, signed as asked, and adds up."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BackupDamaged
from ops.backup import records
from ops.backup.manifest import (
    MAX_RUNS,
    MAX_SHARD_BYTES,
    CollectionEntry,
    FileKind,
    Manifest,
    ShardFile,
    dump,
    dump_started,
    file_name,
    is_file_name,
    is_id,
    new_id,
    parse,
    parse_started,
)
from ops.backup.records import VerificationRecord, added
from ops.backup.sealing import MAX_SEALED_BYTES, seal, unseal
from tests.backup.made import NOON, SYSTEM, entry_of, manifest_of

KEY = "a key of sixteen characters"
PARENT = new_id(NOON - timedelta(hours=1), "full")


def file_of(kind: FileKind, ids: list[int] | None = None, number: int = 1) -> ShardFile:
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    name = file_name(7, kind, number)
    return ShardFile(
        name=name, kind=kind, rows=len(ids or [0]), size_bytes=400, sha256="0" * 64, first_id=first, last_id=last
    )


def full() -> Manifest:
    """A full backup of ten chunks in two shards."""
    files = [file_of("chunks", [1, 2, 3, 4], 1), file_of("chunks", [5, 6, 7, 8, 9, 10], 2), file_of("live")]
    return manifest_of([entry_of(files, range(10), None)], NOON)


def incremental() -> Manifest:
    """An incremental backup: one chunk is new."""
    files = [file_of("chunks", [11]), file_of("live"), file_of("deletes")]
    return manifest_of([entry_of(files, range(10), PARENT)], NOON)


def content_of(manifest: Manifest) -> dict[str, Any]:
    content: dict[str, Any] = manifest.model_dump(mode="json")
    return content


def problem_of(content: object, backup_id: str, key: str | None = None) -> str:
    """What is wrong with a manifest whose seal is right."""
    with pytest.raises(BackupDamaged) as caught:
        parse(seal("manifest", content, key), backup_id, key)  # type: ignore[arg-type]  # whatever somebody wrote
    assert caught.value.file == f"{backup_id}/manifest.json"
    return caught.value.problem


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("make", [full, incremental])
def test_a_manifest_is_read_as_it_was_written(make: Callable[[], Manifest], key: str | None) -> None:
    """Every field comes back as it was, instants to the microsecond."""
    manifest = make()
    assert parse(dump(manifest, key), manifest.id, key) == manifest


def test_a_manifest_needs_its_signature() -> None:
    """With a key, only what was signed with it is read; without one, the checksum alone counts."""
    manifest = full()
    for written_with, problem in ((None, "not signed"), ("another key of some length", "not one by this backup key")):
        data = dump(manifest, written_with)
        with pytest.raises(BackupDamaged, match=problem):
            parse(data, manifest.id, KEY)
        assert parse(data, manifest.id, None) == manifest


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_torn_manifest_is_refused(data: st.DataObject) -> None:
    """Cut anywhere, or with any other byte anywhere, it is damage."""
    manifest = full()
    whole = bytearray(dump(manifest, None))
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = bytes(whole[:at])
    whole[at] ^= data.draw(st.integers(1, 255))
    for wrong in (cut, bytes(whole), dump(manifest, None).replace(b"\n", b"\t\n", 1)):
        with pytest.raises(BackupDamaged, match=f"{manifest.id}/manifest.json"):
            parse(wrong, manifest.id, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"manifest":' * 50_000,
        b"1" * 10_000,
        b'{"manifest": {}, "checksum": NaN, "signature": null}',
        b'{"manifest": {}, "checksum": "' + b"0" * 64 + b'", "signature": null}',
        b'{"manifest": "\\ud800", "checksum": "' + b"0" * 64 + b'", "signature": null}',
        b'{"manifest": {}, "checksum": "x", "signature": null}',
        b'{"manifest": {}, "checksum": "' + b"0" * 64 + b'", "signature": 5}',
        b'{"manifest": {}, "checksum": "' + b"0" * 64 + b'", "signature": null, "more": 1}',
        b" " * (MAX_SEALED_BYTES + 1),
    ],
    ids=range(14),
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    """Nesting, numbers and sizes beyond all bounds are damage like any other."""
    with pytest.raises(BackupDamaged) as caught:
        parse(data, PARENT, None)
    assert len(str(caught.value)) < 300


def test_nesting_inside_a_right_seal_is_refused() -> None:
    """A stamp as deep as the parsers can go is damage, not a crash."""
    content = content_of(full())
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"a": deep}
    content["collections"][0]["stamp"] = deep
    assert "ecursion" in problem_of(content, full().id)


WRONG: dict[str, tuple[Callable[[], Manifest], tuple[str | int, ...], object]] = {
    "a name that leaves the folder": (full, ("collections", 0, "files", 0, "name"), "../c7-chunks-000001.parquet"),
    "an absolute name": (full, ("collections", 0, "files", 2, "name"), "/c7-live.parquet"),
    "another collection's name": (full, ("collections", 0, "files", 0, "name"), "c8-chunks-000001.parquet"),
    "a name twice": (full, ("collections", 0, "files", 1, "name"), "c7-chunks-000001.parquet"),
    "a name of another kind": (full, ("collections", 0, "files", 2, "name"), "c7-deletes.parquet"),
    "another kind": (full, ("collections", 0, "files", 2, "kind"), "deletes"),
    "no rows": (full, ("collections", 0, "files", 0, "rows"), 0),
    "too many rows": (full, ("collections", 0, "files", 0, "rows"), (1 << 20) + 1),
    "rows that do not fit the ids": (full, ("collections", 0, "files", 0, "rows"), 5),
    "too many runs": (full, ("collections", 0, "files", 2, "rows"), MAX_RUNS + 1),
    "too many bytes": (full, ("collections", 0, "files", 0, "size_bytes"), MAX_SHARD_BYTES + 1),
    "no bytes": (full, ("collections", 0, "files", 0, "size_bytes"), 0),
    "no hash": (full, ("collections", 0, "files", 0, "sha256"), "0" * 63 + "G"),
    "ids that go back": (full, ("collections", 0, "files", 1, "first_id"), 4),
    "an id below zero": (full, ("collections", 0, "files", 0, "first_id"), -1),
    "no first id": (full, ("collections", 0, "files", 0, "first_id"), None),
    "ids of runs": (full, ("collections", 0, "files", 2, "last_id"), 3),
    "another count": (full, ("collections", 0, "chunks"), 11),
    "fewer chunks than are new": (incremental, ("collections", 0, "chunks"), 0),
    "more documents than chunks": (full, ("collections", 0, "documents"), 11),
    "a collection's name": (full, ("collections", 0, "name"), "../notes"),
    "a dimension of none": (full, ("collections", 0, "dimension"), 0),
    "a dimension without an index": (full, ("collections", 0, "dimension"), 4_001),
    "a metric": (full, ("collections", 0, "metric"), "hamming"),
    "a stamp of somebody else's": (full, ("collections", 0, "stamp"), {"model": "hashing"}),
    "a stamp with a number as text": (full, ("collections", 0, "stamp", "chunker", "max_tokens"), "256"),
    "a stamp of another dimension": (full, ("collections", 0, "stamp", "embedder", "dimension"), 4),
    "a number that a write would overflow": (full, ("collections", 0, "sequence"), (1 << 63) - 1),
    "a bound of recall": (full, ("collections", 0, "recall_target"), 1.5),
    "a prompt that asks nothing": (full, ("collections", 0, "prompt"), {"system": "", "user": "{passages}"}),
    "half a prompt": (full, ("collections", 0, "prompt"), {"user": "{passages}{question}"}),
    "a parent in a full backup": (full, ("collections", 0, "parent"), PARENT),
    "a parent that is itself": (incremental, ("collections", 0, "parent"), new_id(NOON, "incremental")),
    "a parent that is younger": (incremental, ("collections", 0, "parent"), new_id(NOON + timedelta(1), "full")),
    "a parent that is none": (incremental, ("collections", 0, "parent"), "../" + PARENT),
    "no parent to have deleted from": (incremental, ("collections", 0, "parent"), None),
    "another kind of backup": (full, ("kind",), "incremental"),
    "another instant": (full, ("snapshot_at",), "2024-02-29T12:00:01Z"),
    "an instant without a zone": (full, ("started_at",), "2024-02-29T12:00:01"),
    "a number as text": (full, ("timeline",), "1"),
    "a number beyond all bounds": (full, ("timeline",), 10**400),
    "another id": (full, ("id",), PARENT),
    "a field of its own": (full, ("password",), "x"),
    "version 0": (full, ("format_version",), 0),
}


@pytest.mark.parametrize(("make", "path", "value"), WRONG.values(), ids=WRONG)
def test_a_manifest_that_cannot_be_is_refused(
    make: Callable[[], Manifest], path: tuple[str | int, ...], value: object
) -> None:
    """However right its seal is, what it says must be in bounds and add up."""
    content = content_of(make())
    place: Any = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert 0 < len(problem_of(content, make().id, KEY)) < 500


def test_a_manifest_from_before_there_were_prompts_is_read() -> None:
    """Its collections have the default."""
    content = content_of(full())
    content["format_version"] = 1
    del content["collections"][0]["prompt"]
    manifest = parse(seal("manifest", content, KEY), full().id, KEY)
    assert (manifest.format_version, manifest.collections[0].prompt) == (1, None)


def test_collections_are_there_once() -> None:
    """The same collection twice, by name or by id, is damage."""
    content = content_of(full())
    content["collections"] *= 2
    assert "2 times" in problem_of(content, full().id)
    content["collections"] = [content["collections"][0], {**content["collections"][0], "name": "others"}]
    assert "collection_id" in problem_of(content, full().id)


def test_a_newer_format_asks_for_a_newer_ragstone() -> None:
    """Of a later format nothing else is looked at."""
    assert "update Ragstone" in problem_of({"format_version": 3, "anything": "else"}, PARENT)


def test_a_manifest_of_another_folder_is_refused() -> None:
    """A manifest that was copied into another backup's folder is not that backup's."""
    with pytest.raises(BackupDamaged, match="needed the folder's name"):
        parse(dump(full(), None), PARENT, None)


def test_what_could_not_be_read_again_is_not_written() -> None:
    """A manifest that does not add up is refused when it is written."""
    manifest = full()
    entry: CollectionEntry = manifest.collections[0].model_copy(update={"chunks": 11})
    with pytest.raises(BackupDamaged, match="chunk shards have 10 rows"):
        dump(manifest.model_copy(update={"collections": [entry]}), None)


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9998, 1, 1)), st.integers(-12, 12))
def test_ids_sort_by_time(moment: datetime, hours: int) -> None:
    """An id is the instant in UTC, whatever zone it is given in, and a later one sorts after it."""
    there = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert is_id(new_id(there, "full"))
    assert new_id(there, "full") == new_id(there.astimezone(UTC), "full")
    assert new_id(there, "incremental") < new_id(there + timedelta(microseconds=1), "full")


@given(st.text(st.sampled_from("c7-live.parqutchnks0/\\\0\n"), max_size=30))
def test_names_are_the_formats(name: str) -> None:
    """No name with a folder, a NUL or a line's end in it is a file's name."""
    assert not (is_file_name(name) and set(name) & set("/\\\0\n"))
    assert not is_file_name(f"{file_name(7, 'live')}\n")
    assert not is_id(f"{PARENT}\n")


def test_a_beginning_says_whose_it_is() -> None:
    """`started.json` names the corpus; anything else in it is damage."""
    data = dump_started(SYSTEM, NOON)
    assert parse_started(data, PARENT) == SYSTEM
    for wrong in (b"", data[:-1], b"{}", data.replace(b"745", b"-99745"), b"[" * 10_000):
        with pytest.raises(BackupDamaged, match=f"{PARENT}/started.json"):
            parse_started(wrong, PARENT)


def test_a_record_is_its_backups_own() -> None:
    """A record counts for the backup that it was written for, and with a key only where it is signed."""
    record = VerificationRecord(
        depth="hashes", verified_at=NOON, ok=True, duration_s=1.5, problem=None, tool_version="0.1.0"
    )
    known = added(None, PARENT, record)
    assert records.parse(records.dump(known, KEY), PARENT, KEY) == known
    with pytest.raises(BackupDamaged, match="it is that of"):
        records.parse(records.dump(known, KEY), full().id, KEY)
    with pytest.raises(BackupDamaged, match="not signed"):
        records.parse(records.dump(known, None), PARENT, KEY)


def test_a_seal_tells_what_it_holds() -> None:
    """A sealed file of one kind is not read as one of another; what is no JSON is not sealed."""
    data = seal("verifications", {"a": 1}, KEY)
    assert unseal(data, "file", "verifications", KEY) == b'{"a":1}'
    with pytest.raises(BackupDamaged, match="needed an object of manifest"):
        unseal(data, "file", "manifest", KEY)
    with pytest.raises(ValueError, match="not JSON compliant"):
        seal("manifest", {"a": float("nan")}, None)
