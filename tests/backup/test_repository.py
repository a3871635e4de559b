"""Where backups are kept: what was written is there, whole; what fails is not there; nothing else is touched."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import boto3
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from backends.errors import BackupDamaged, InvalidInput, RepositoryUnavailable, Unsupported
from ops.backup.manifest import MANIFEST, STARTED, VERIFIED
from ops.backup.repository import FileMissing, HashedFile, Repository
from ops.backup.stores import LocalStore, Refused
from ops.backup.verifying import verify
from tests.backup.made import put_full

registry = import_module("fsspec.registry")  # its name in fsspec is that of a mapping
ID = "20261125T120000.000000Z-full"
NAME = "c7-chunks-000001.parquet"
LARGE = os.urandom(1 << 20) * 20
SECRET = "not-a-secret-but-shaped-like-one"


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 on this machine: moto's server, which speaks the real protocol."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new bucket there; the environment says how to reach it, and nothing else does."""
    environment = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"vault-{uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return bucket


@pytest.fixture(params=["folder", "file://", "s3://", "memory://"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty repository, of each kind in turn."""
    match request.param:
        case "folder":
            yield str(tmp_path)
        case "file://":
            yield tmp_path.as_uri()
        case "s3://":
            yield f"s3://{request.getfixturevalue('s3_bucket')}/some/prefix"
        case _:
            name = uuid4().hex
            yield f"memory://{name}"
            fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


def fail_after(file: HashedFile, data: bytes, look: Callable[[], None] = lambda: None) -> None:
    """Write, and then meet an error."""
    file.write(data)
    look()
    raise ZeroDivisionError


def test_what_was_written_is_read(place: str) -> None:
    """A file is there under its name, of its size and hash, for another opening too."""
    repository = Repository.open(place)
    assert (repository.folders(), repository.files(ID)) == ([], {})
    with repository.writing(ID, NAME) as file:
        for start in range(0, len(LARGE), 3 << 20):
            file.write(memoryview(LARGE)[start : start + (3 << 20)])
    repository.write(ID, STARTED, b"{}")
    other = Repository.open(place)
    assert (file.size_bytes, file.sha256) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert other.folders() == [ID]
    assert other.files(ID) == {NAME: len(LARGE), STARTED: 2}
    assert other.read(ID, NAME, len(LARGE)) == LARGE
    assert [len(block) for block in other.blocks(ID, NAME, len(LARGE))] == [8 << 20, 8 << 20, 4 << 20]
    assert other.read_small(ID, STARTED, 2) == b"{}"


def test_another_process_sees_what_was_written_since(place: str) -> None:
    """Nothing of a listing is remembered."""
    early, late = Repository.open(place), Repository.open(place)
    assert early.files(ID) == {}
    late.write(ID, STARTED, b"{}")
    assert early.files(ID) == {STARTED: 2}
    late.write(ID, STARTED, b"{ }")
    assert (early.files(ID), early.read(ID, STARTED, 3)) == ({STARTED: 3}, b"{ }")


def test_what_fails_is_not_there(place: str) -> None:
    """Where the writer raises, there is no file of that name, and what was there before stays."""
    repository = Repository.open(place)
    repository.write(ID, STARTED, b"{}")
    with pytest.raises(ZeroDivisionError), repository.writing(ID, NAME) as file:
        fail_after(file, LARGE)
    assert repository.files(ID) == {STARTED: 2}


def test_a_replaced_file_stays_where_its_writer_fails(tmp_path: Path, s3_bucket: str) -> None:
    """The record of a verification is the old one or the new one, whatever happens."""
    for repository in (Repository.open(str(tmp_path)), Repository.open(f"s3://{s3_bucket}")):
        repository.write(ID, VERIFIED, b"old")
        with pytest.raises(ZeroDivisionError), repository.writing(ID, VERIFIED) as file:
            fail_after(file, b"new")
        assert repository.read_small(ID, VERIFIED, 3) == b"old"


def test_a_failed_upload_leaves_nothing_to_pay_for(s3_bucket: str) -> None:
    """The parts of an upload that was given up are removed from the store."""
    repository = Repository.open(f"s3://{s3_bucket}")
    under_way: list[int] = []

    def uploads() -> int:
        return len(boto3.client("s3").list_multipart_uploads(Bucket=s3_bucket).get("Uploads", []))

    with pytest.raises(ZeroDivisionError), repository.writing(ID, NAME) as file:
        fail_after(file, LARGE, lambda: under_way.append(uploads()))
    assert (under_way, uploads()) == ([1], 0)


def test_pyarrow_writes_into_it(place: str) -> None:
    """A Parquet writer takes the file, and its hash is that of what can be read."""
    repository = Repository.open(place)
    table = pa.table({"n": list(range(1_000))})
    with repository.writing(ID, NAME) as file, pq.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table)
    data = repository.read(ID, NAME, file.size_bytes)
    assert hashlib.sha256(data).hexdigest() == file.sha256
    assert pq.read_table(pa.BufferReader(data)) == table


def test_several_threads_write_at_once(place: str) -> None:
    """Files that are written side by side do not get into each other's way."""
    repository = Repository.open(place)
    names = [f"c7-chunks-{number:06d}.parquet" for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: repository.write(ID, name, name.encode() * 1_000), names))
    assert repository.files(ID) == dict.fromkeys(names, 1_000 * len(names[0]))
    assert all(repository.read(ID, name, 1_000 * len(name)) == name.encode() * 1_000 for name in names)


def test_another_size_is_damage(place: str) -> None:
    """A file is read only where it has just so many bytes; a missing one is named."""
    repository = Repository.open(place)
    repository.write(ID, NAME, b"12345")
    for size_bytes in (0, 4, 6):
        with pytest.raises(BackupDamaged, match=f"{NAME}: found 5 bytes; needed {size_bytes}"):
            repository.read(ID, NAME, size_bytes)
    with pytest.raises(BackupDamaged, match="found 5 bytes; needed at most 4"):
        repository.read_small(ID, NAME, 4)
    with pytest.raises(FileMissing, match=f"{ID}/{STARTED}: it is missing"):
        repository.read(ID, STARTED, 1)


def test_a_backup_is_removed_manifest_first(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that is interrupted leaves an incomplete backup, never one that looks complete."""
    repository = Repository.open(place)
    for name in (NAME, MANIFEST, STARTED):
        repository.write(ID, name, b"{}")
    repository.write(ID.replace("full", "incremental"), STARTED, b"{}")
    removed: list[str] = []
    store = repository._store
    remove = store.remove

    def noted(folder: str, name: str) -> None:
        removed.append(name)
        remove(folder, name)

    monkeypatch.setattr(store, "remove", noted)
    repository.remove_backup(ID)
    assert removed[0] == MANIFEST
    assert repository.folders() == [ID.replace("full", "incremental")]
    repository.remove_backup(ID)  # again, as after a crash: nothing is left to do


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "c7-live.parquet/..", "c7-live.parquet\0", "", "x.parquet", "C7-live.parquet"]
)
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    """Only the names of the format are read or written, and only in a backup's folder."""
    repository = Repository.open(str(tmp_path))
    for backup_id, wanted in ((ID, name), ("..", MANIFEST), (f"{ID}/..", MANIFEST), ("", MANIFEST)):
        with pytest.raises(BackupDamaged):
            repository.write(backup_id, wanted, b"x")
        with pytest.raises(BackupDamaged):
            repository.read_small(backup_id, wanted, 1)
    assert list(tmp_path.iterdir()) == []


def test_names_that_leave_the_folder_are_not_removed(tmp_path: Path) -> None:
    """Whatever a folder holds can be removed, and nothing beside it."""
    repository = Repository.open(str(tmp_path))
    repository.write(ID, STARTED, b"{}")
    (tmp_path / "kept").touch()
    for name in ("../kept", str(tmp_path / "kept"), "..", ""):
        with pytest.raises(BackupDamaged):
            repository.remove(ID, [name])
    assert (tmp_path / "kept").exists()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Links, pipes and folders are neither followed nor waited for, and a folder that has one is not removed."""
    repository = Repository.open(str(tmp_path / "vault"), create=True)
    (tmp_path / "secret").write_bytes(b"12345")
    for number, make in enumerate([lambda path: path.symlink_to(tmp_path / "secret"), os.mkfifo, Path.mkdir]):
        backup_id = f"20261125T12000{number}.000000Z-full"
        repository.write(backup_id, STARTED, b"{}")
        make(tmp_path / "vault" / backup_id / NAME)
        with pytest.raises(BackupDamaged, match=NAME):
            repository.read(backup_id, NAME, 5)
        with pytest.raises(Refused, match=NAME):  # also where it has just taken a file's place
            LocalStore(tmp_path / "vault").read(backup_id, NAME, 0, 5)
        with pytest.raises(BackupDamaged, match=NAME):
            repository.files(backup_id)
        with pytest.raises(BackupDamaged, match=NAME):
            repository.remove_backup(backup_id)
    assert (tmp_path / "secret").read_bytes() == b"12345"


def test_a_linked_folder_is_not_written_to(tmp_path: Path) -> None:
    """Where a backup's folder is a link, nothing is written behind it."""
    repository = Repository.open(str(tmp_path / "vault"), create=True)
    (tmp_path / "behind").mkdir()
    (tmp_path / "vault" / ID).symlink_to(tmp_path / "behind")
    with pytest.raises(BackupDamaged, match=ID):
        repository.write(ID, STARTED, b"{}")
    assert list((tmp_path / "behind").iterdir()) == []


def test_backups_are_for_their_owner_alone(tmp_path: Path) -> None:
    """What users have written stands in a backup: nobody else may read it."""
    repository = Repository.open(str(tmp_path / "vault"), create=True)
    repository.write(ID, STARTED, b"{}")
    paths = [tmp_path / "vault", tmp_path / "vault" / ID, tmp_path / "vault" / ID / STARTED]
    assert [stat.S_IMODE(path.stat().st_mode) & 0o077 for path in paths] == [0, 0, 0]


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room, the error says so, and no part of the file is left."""
    repository = Repository.open(str(tmp_path))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    repository.write(ID, STARTED, b"{}")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RepositoryUnavailable, match="no room left"):
        repository.write(ID, NAME, LARGE)
    monkeypatch.undo()
    assert repository.files(ID) == {STARTED: 2}


def test_what_is_written_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synchronised before it gets its name, and the folder after."""
    steps: list[str] = []
    sync, rename = os.fsync, os.rename

    def noted_sync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def noted_rename(*names: str, **folders: int) -> None:
        steps.append("rename")
        rename(*names, **folders)

    repository = Repository.open(str(tmp_path))
    repository.write(ID, STARTED, b"{}")
    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "rename", noted_rename)
    repository.write(ID, NAME, b"x")
    assert steps == ["file", "rename", "folder"]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "needed a folder"),
        ("ftp://host/x", "protocol 'ftp'"),
        ("simplecache::s3://bucket", "protocol"),
        ("file://host/x", "protocol"),
        ("s3://", "needed s3://bucket"),
        ("s3://bucket//x", "needed s3://bucket"),
        ("s3://bucket/../x", "needed s3://bucket"),
        ("s3://user:hunter2@bucket/x", "credentials come from the environment"),
        ("s3://bucket/x?token=hunter2", "credentials come from the environment"),
    ],
)
def test_other_addresses_are_refused(url: str, text: str) -> None:
    """An address that is none is named as the option to mend; what may be a password is not shown."""
    with pytest.raises(InvalidInput, match=text) as caught:
        Repository.open(url)
    assert caught.value.field == "--repo"
    assert "hunter2" not in str(caught.value)


def test_a_place_that_is_not_there_is_said(tmp_path: Path, s3_bucket: str) -> None:
    """A folder is made on demand only, a bucket never; a file is no repository."""
    with pytest.raises(InvalidInput, match="there is no folder"):
        Repository.open(str(tmp_path / "a" / "b"))
    assert Repository.open(str(tmp_path / "a" / "b"), create=True).folders() == []
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="there is no folder"):
        Repository.open(str(tmp_path / "file"), create=True)
    with pytest.raises(InvalidInput, match=f"there is no bucket '{s3_bucket}-other'"):
        Repository.open(f"s3://{s3_bucket}-other/x", create=True)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a driver is not installed, the error says how to install it."""
    monkeypatch.setitem(registry.known_implementations, "gs", {"class": "no_such_driver.Files", "err": "-"})
    monkeypatch.delitem(registry._registry, "gs", raising=False)
    with pytest.raises(Unsupported, match=r"pip install 'ragstone\[gcs\]'"):
        Repository.open("gs://bucket")


def test_a_store_that_is_away_is_unavailable(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer, or refuses, is told apart from one that is empty, and no secret is told."""
    repository = Repository.open(f"s3://{s3_bucket}")
    boto3.client("s3").delete_bucket(Bucket=s3_bucket)
    with pytest.raises(RepositoryUnavailable, match=s3_bucket):
        repository.write(ID, STARTED, b"{}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:1")
    with pytest.raises(RepositoryUnavailable) as caught:
        Repository.open(f"s3://{s3_bucket}")
    assert SECRET not in str(caught.value)


def test_room_is_known_for_folders_only(tmp_path: Path, s3_bucket: str) -> None:
    """A folder's free room is that of its disk; a store has as much as is paid for."""
    free_bytes = Repository.open(str(tmp_path)).free_bytes()
    assert free_bytes is not None
    assert 0 < free_bytes < 1 << 60
    assert Repository.open(f"s3://{s3_bucket}").free_bytes() is None


def test_a_backup_is_verified_wherever_it_is(place: str) -> None:
    """A backup in any kind of place is read through and found whole, and what was found is remembered there."""
    made = put_full(Repository.open(place))
    assert verify(place).ok
    assert VERIFIED in Repository.open(place).files(made.id)
