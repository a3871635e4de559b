"""Where backups are kept: a folder, `s3://bucket/prefix` or `gs://bucket/prefix`, one folder a backup.

Nothing in it is trusted: only names that the format gives are read or written, no link is followed, and no more is
read than was said to be there. Credentials and endpoints come from the environment, as the drivers document it
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS): they stand in no address and in no error.
"""

import errno
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import fsspec

from backends.errors import BackupDamaged, InvalidInput, RepositoryUnavailable, Unsupported
from ops.backup.manifest import MANIFEST, is_file_name, is_id
from ops.backup.stores import BLOCK_BYTES, LocalStore, ObjectStore, Refused, Sink, Store
from retrieval.checking import shown

FIELD = "--repo"
REMOTE = {"s3": "s3", "gs": "gcs", "memory": None}
"""The protocols beside local folders, and the extra that each needs."""
_DRIVERS = {"aiobotocore", "aiohttp", "botocore", "gcsfs", "google"}
"""Their errors are not the system's."""
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class FileMissing(BackupDamaged):
    """The file is not there."""


class HashedFile(io.RawIOBase):
    """A file that is being written: counted and hashed on the way. `sha256` is in hexadecimal digits."""

    def __init__(self, sink: Sink, url: str) -> None:
        self._sink = sink
        self._url = url
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: Any) -> int:
        """Write all of the bytes; raises RepositoryUnavailable."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        with reaching(self._url):
            self._sink.write(view)
        self.size_bytes += view.nbytes
        return view.nbytes

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size_bytes


class Repository:
    """One place of backups. Safe to use from several threads, each with its own files.

    Every method raises RepositoryUnavailable where the place cannot be reached, or is full, and BackupDamaged where
    there is what no backup has.
    """

    def __init__(self, url: str, store: Store) -> None:
        self.url = url
        self._store = store

    @classmethod
    def open(cls, url: str, create: bool = False) -> Self:
        """Open a repository; with `create`, a local folder is made where there is none.

        Raises InvalidInput where there is no such place, Unsupported where its driver is not installed.
        """
        if "://" not in url or url.startswith("file:///"):
            return cls(*_local(url.removeprefix("file://"), create))
        protocol = url.partition("://")[0]
        if protocol not in REMOTE:
            raise InvalidInput(
                FIELD, f"found the protocol {shown(protocol)}; needed a folder, or a URL with s3:// or gs://"
            )
        return cls(*_remote(url, protocol))

    def folders(self) -> list[str]:
        """Return the ids of the backups, complete or not, the oldest first."""
        with reaching(self.url):
            return sorted(filter(is_id, self._store.folders()))

    def files(self, backup_id: str) -> dict[str, int]:
        """Return what is in a backup's folder, and its size in bytes; {} where there is no such folder."""
        with self._reading(backup_id), suppress(FileNotFoundError):
            return self._store.files(backup_id)
        return {}

    def read(self, backup_id: str, name: str, size_bytes: int) -> bytes:
        """Return a file of exactly so many bytes."""
        return b"".join(self.blocks(backup_id, name, size_bytes, size_bytes))

    def read_small(self, backup_id: str, name: str, limit_bytes: int) -> bytes:
        """Return a file of at most so many bytes."""
        size_bytes = self._size_bytes(backup_id, name)
        if size_bytes > limit_bytes:
            raise BackupDamaged(f"{backup_id}/{name}", f"found {size_bytes:,} bytes; needed at most {limit_bytes:,}")
        return self.read(backup_id, name, size_bytes)

    def blocks(self, backup_id: str, name: str, size_bytes: int, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Give a file of exactly so many bytes in blocks."""
        found_bytes = self._size_bytes(backup_id, name)
        _check_size(backup_id, name, found_bytes, size_bytes)
        for start in range(0, size_bytes, max(1, block_bytes)):
            wanted_bytes = min(block_bytes, size_bytes - start)
            with self._reading(backup_id, name):
                block = self._store.read(backup_id, name, start, wanted_bytes)
            _check_size(backup_id, name, start + len(block), start + wanted_bytes)
            yield block

    @contextmanager
    def writing(self, backup_id: str, name: str) -> Iterator[HashedFile]:
        """Give a file to write. It is there, whole, when the block ends, and not at all where that raises."""
        _check_names(backup_id, name)
        with self._reading(backup_id, name):
            sink = self._store.sink(backup_id, name)
        file = HashedFile(sink, self.url)
        try:
            yield file
            with reaching(self.url):
                sink.commit()
        except BaseException:
            with suppress(RepositoryUnavailable), reaching(self.url):  # what went wrong first is what counts
                sink.discard()
            raise

    def write(self, backup_id: str, name: str, data: bytes) -> None:
        """Write a file, or replace it, in one step."""
        with self.writing(backup_id, name) as file:
            file.write(data)

    def remove(self, backup_id: str, names: Sequence[str]) -> None:
        """Remove files of a backup, in this order; those that are not there any more are none to remove."""
        for name in names:
            _check_names(backup_id, MANIFEST)
            if not name or "/" in name or "\0" in name or name in (".", ".."):
                raise BackupDamaged(f"{backup_id}/{shown(name)}", "it is no name of a file; needed one to remove")
            with self._reading(backup_id, name), suppress(FileNotFoundError):
                self._store.remove(backup_id, name)

    def remove_backup(self, backup_id: str) -> None:
        """Remove a backup: its manifest first, so that what is left of it never looks complete."""
        names = self.files(backup_id)
        self.remove(backup_id, [MANIFEST])
        with self._reading(backup_id), suppress(FileNotFoundError):
            self._store.settle(backup_id)
        self.remove(backup_id, [name for name in names if name != MANIFEST])
        with self._reading(backup_id):
            self._store.remove_folder(backup_id)

    def free_bytes(self) -> int | None:
        """Return how much room there is; None where nobody can say."""
        with reaching(self.url):
            return self._store.free_bytes()

    def _size_bytes(self, backup_id: str, name: str) -> int:
        _check_names(backup_id, name)
        with self._reading(backup_id, name):
            return self._store.size_bytes(backup_id, name)

    @contextmanager
    def _reading(self, backup_id: str, name: str | None = None) -> Iterator[None]:
        """Say what is wrong in terms of a backup."""
        file = backup_id if name is None else f"{backup_id}/{name}"
        with reaching(self.url):
            try:
                yield
            except FileNotFoundError as error:
                raise FileMissing(file, "it is missing") from error
            except Refused as error:
                raise BackupDamaged(file, str(error)) from error


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Raise RepositoryUnavailable for what the system or a driver says."""
    try:
        yield
    except OSError as error:
        raise RepositoryUnavailable(_words(url, error)) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in _DRIVERS:
            raise RepositoryUnavailable(_words(url, error)) from error
        raise


def _words(url: str, error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"there is no room left in {url}; make some, or take another place"
    if isinstance(error, PermissionError):
        return f"{url} may not be reached or written by this user: {_without_secrets(str(error))}"
    return f"{url} cannot be reached: {_without_secrets(str(error) or type(error).__name__)}"


def _without_secrets(text: str) -> str:
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return re.sub(r"//[^/@\s]*@", "//***@", text)[:500]


def _check_names(backup_id: str, name: str) -> None:
    """Whoever asks for anything else would leave the backup's folder."""
    if not is_id(backup_id) or not is_file_name(name):
        raise BackupDamaged(
            f"{shown(backup_id)}/{shown(name)}", "needed a backup's id and the name of one of its files"
        )


def _check_size(backup_id: str, name: str, found_bytes: int, needed_bytes: int) -> None:
    if found_bytes != needed_bytes:
        raise BackupDamaged(f"{backup_id}/{name}", f"found {found_bytes:,} bytes; needed {needed_bytes:,}")


def _local(rest: str, create: bool) -> tuple[str, Store]:
    if not rest or "\0" in rest:
        raise InvalidInput(FIELD, f"found {shown(rest)}; needed a folder, or a URL with s3:// or gs://")
    path = Path(rest).resolve()
    with reaching(str(path)):
        if create and not path.exists():
            path.mkdir(0o700, parents=True, exist_ok=True)
        if not path.is_dir():
            raise InvalidInput(FIELD, f"there is no folder {str(path)!r}; needed one with backups")
    return str(path), LocalStore(path)


def _remote(url: str, protocol: str) -> tuple[str, Store]:
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidInput(FIELD, "found more than a bucket and a prefix; credentials come from the environment")
    root = f"{parts.netloc}{parts.path}".rstrip("/")
    if not parts.netloc or any(part in ("", ".", "..") for part in root.split("/")):
        raise InvalidInput(FIELD, f"found {shown(url)}; needed {protocol}://bucket or {protocol}://bucket/prefix")
    place = f"{protocol}://{root}"
    with reaching(place):
        system = _driver(protocol)
        if protocol != "memory":
            _check_bucket(system, root, parts.netloc)
    return place, ObjectStore(system, root)


def _driver(protocol: str) -> fsspec.AbstractFileSystem:
    """Open the driver; what another process has written since is to be seen, so that nothing is kept in memory."""
    try:
        return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        extra = REMOTE[protocol]
        raise Unsupported(
            f"{protocol}:// needs a driver that is not installed: pip install 'ragstone[{extra}]'"
        ) from error


def _check_bucket(system: fsspec.AbstractFileSystem, root: str, bucket: str) -> None:
    """A prefix without objects is empty; a bucket that is not there is a slip."""
    try:
        system.ls(root)
    except FileNotFoundError:
        try:
            system.info(bucket)
        except FileNotFoundError as error:
            raise InvalidInput(FIELD, f"there is no bucket {bucket!r}; make it first") from error
        except PermissionError:
            return  # its keys may be limited to the prefix
