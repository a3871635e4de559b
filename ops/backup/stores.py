"""Where a repository's bytes lie: a local folder, or objects behind fsspec. Names have been checked by the caller.

Both raise FileNotFoundError for a file that is not there and `Refused` for what no backup has; what else goes wrong
is the system's error or the driver's.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

BLOCK_BYTES = 8 << 20
"""What is read and sent at once; S3 takes parts of 5 MiB and more."""
_UNFINISHED = ".unfinished"


class Refused(Exception):
    """There is something that no backup has, and that is not touched: a link, a folder, a device."""


class Sink(Protocol):
    """A file that is being written: there under its name after `commit`, and not at all after `discard`."""

    def write(self, data: memoryview) -> object: ...
    def commit(self) -> None: ...
    def discard(self) -> None: ...


class Store(Protocol):
    """Folders of files, one level deep."""

    def folders(self) -> list[str]: ...
    def files(self, folder: str) -> dict[str, int]: ...
    def size_bytes(self, folder: str, name: str) -> int: ...
    def read(self, folder: str, name: str, start: int, size_bytes: int) -> bytes: ...
    def sink(self, folder: str, name: str) -> Sink: ...
    def remove(self, folder: str, name: str) -> None: ...
    def settle(self, folder: str) -> None: ...
    def remove_folder(self, folder: str) -> None: ...
    def free_bytes(self) -> int | None: ...


class LocalStore:
    """A folder of the machine. No link is followed below it, and what was committed survives a crash."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folders(self) -> list[str]:
        return os.listdir(self._root)

    def files(self, folder: str) -> dict[str, int]:
        with self._opened(folder) as opened, os.scandir(opened) as entries:
            return {entry.name: _regular_size(entry.name, entry.stat(follow_symlinks=False)) for entry in entries}

    def size_bytes(self, folder: str, name: str) -> int:
        with self._opened(folder) as opened:
            return _regular_size(name, os.stat(name, dir_fd=opened, follow_symlinks=False))

    def read(self, folder: str, name: str, start: int, size_bytes: int) -> bytes:
        with self._opened(folder) as opened:
            # Without waiting: a named pipe that took the file's place would wait for a writer.
            descriptor = _open(name, os.O_RDONLY | os.O_NONBLOCK, opened)
        try:
            _regular_size(name, os.fstat(descriptor))
            return os.pread(descriptor, size_bytes, start)
        finally:
            os.close(descriptor)

    def sink(self, folder: str, name: str) -> Sink:
        self._make(folder)
        with self._opened(folder) as opened:
            return _LocalSink(os.dup(opened), name)

    def remove(self, folder: str, name: str) -> None:
        with self._opened(folder) as opened, suppress(FileNotFoundError):
            os.unlink(name, dir_fd=opened)

    def settle(self, folder: str) -> None:
        """Bring the names in a folder to the disk."""
        with self._opened(folder) as opened:
            os.fsync(opened)

    def remove_folder(self, folder: str) -> None:
        with suppress(FileNotFoundError):
            os.rmdir(self._root / folder)
        self._settle_root()

    def free_bytes(self) -> int | None:
        stats = os.statvfs(self._root)
        return stats.f_bavail * stats.f_frsize

    def _make(self, folder: str) -> None:
        """What users have written stands in a backup: nobody else reads it."""
        with suppress(FileExistsError):
            os.mkdir(self._root / folder, 0o700)
            self._settle_root()

    def _settle_root(self) -> None:
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _opened(self, folder: str) -> Iterator[int]:
        descriptor = _open(self._root / folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class _LocalSink:
    """Written beside its place under another name, then put there in one step."""

    def __init__(self, folder: int, name: str) -> None:
        self._folder = folder
        self._name = name
        self._beside = f".{name}.{secrets.token_hex(8)}{_UNFINISHED}"
        try:
            descriptor = _open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder)
            self._file: BinaryIO = os.fdopen(descriptor, "wb", 1 << 20)
        except (OSError, Refused):
            os.close(folder)
            raise

    def write(self, data: memoryview) -> object:
        return self._file.write(data)

    def commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.rename(self._beside, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)
        os.close(self._folder)

    def discard(self) -> None:
        with suppress(OSError):  # a full disk: what is buffered cannot be written either
            self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._beside, dir_fd=self._folder)
        os.close(self._folder)


def is_unfinished(name: str, of: str) -> bool:
    """Whether a name is that of a file `of` whose writer died."""
    return name.startswith(f".{of}.") and name.endswith(_UNFINISHED)


def _open(path: Path | str, flags: int, folder: int | None = None) -> int:
    """Open without following a link; what is made is for nobody else."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            needed = "folder" if flags & os.O_DIRECTORY else "file"
            raise Refused(f"{os.path.basename(path)!r} is a link or something else; needed a {needed}") from error
        raise


def _regular_size(name: str, found: os.stat_result) -> int:
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{name!r} is a link, a folder or a device; needed a file")
    return found.st_size


class ObjectStore:
    """Objects below a root, `bucket/prefix`, through fsspec."""

    def __init__(self, system: AbstractFileSystem, root: str) -> None:
        self._system = system
        self._root = root

    def folders(self) -> list[str]:
        return [name for name, entry in self._entries(self._root) if entry["type"] == "directory"]

    def files(self, folder: str) -> dict[str, int]:
        entries = self._entries(f"{self._root}/{folder}")
        for name, entry in entries:
            if entry["type"] != "file":
                raise Refused(f"{name!r} is a folder; needed a file")
        return {name: int(entry["size"]) for name, entry in entries}

    def size_bytes(self, folder: str, name: str) -> int:
        entry = self._system.info(self._path(folder, name))
        if entry["type"] != "file":
            raise FileNotFoundError(name)
        return int(entry["size"])

    def read(self, folder: str, name: str, start: int, size_bytes: int) -> bytes:
        data: bytes = self._system.cat_file(self._path(folder, name), start=start, end=start + size_bytes)
        return data

    def sink(self, folder: str, name: str) -> Sink:
        return _ObjectSink(self._system, self._path(folder, name))

    def remove(self, folder: str, name: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(self._path(folder, name))

    def settle(self, folder: str) -> None:
        """An object that is gone is gone."""

    def remove_folder(self, folder: str) -> None:
        """A folder without objects is none."""

    def free_bytes(self) -> int | None:
        return None

    def _entries(self, path: str) -> list[tuple[str, dict[str, Any]]]:
        """What is directly below a path; a place that a console has made for a folder is not among it."""
        try:
            found = self._system.ls(path, detail=True)
        except FileNotFoundError:
            return []
        below = [(entry["name"].rstrip("/"), entry) for entry in found]
        return [(name.rsplit("/", 1)[-1], entry) for name, entry in below if name.strip("/") != path.strip("/")]

    def _path(self, folder: str, name: str) -> str:
        return f"{self._root}/{folder}/{name}"


class _ObjectSink:
    """An object is there when its upload is complete, and not before."""

    def __init__(self, system: AbstractFileSystem, path: str) -> None:
        self._system = system
        self._path = path
        self._file = system.open(path, "wb", block_size=BLOCK_BYTES)

    def write(self, data: memoryview) -> object:
        return self._file.write(data)

    def commit(self) -> None:
        self._file.close()

    def discard(self) -> None:
        if not isinstance(self._file, AbstractBufferedFile):  # of memory://, where a file is there at once
            self._system.rm_file(self._path)
            return
        try:
            self._file.discard()
        finally:
            self._file.closed = True  # else it completes the upload when it is collected
