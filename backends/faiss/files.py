"""Files that are whole or not there: written once, synced, and known by size and hash."""

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Damaged(Exception):
    """A snapshot that is not what was written."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a manifest says of a file in the index's folder."""

    name: str
    size_bytes: int
    sha256: str


def recorded(path: Path) -> FileRecord:
    """Bring a file that is written to the disk, and say what it is."""
    sync(path)
    return FileRecord(path.name, path.stat().st_size, _digest(path))


def write_array(path: Path, parts: Iterable[NDArray[Any]]) -> FileRecord:
    """Write an array's bytes, in C order, part after part; its dtype and shape are for the manifest to tell.

    NumPy's own format has a header, which it reads with a parser that is not safe from several threads in
    Python 3.11 (https://github.com/python/cpython/issues/106905).
    """
    with path.open("wb") as file:
        for part in parts:
            file.write(np.ascontiguousarray(part).data)
    return recorded(path)


def check(folder: Path, record: FileRecord) -> None:
    """Raise Damaged where a file is not whole.

    Every byte is read, at about 1.5 GB/s where the processor has SHA instructions: what FAISS then maps is what
    was written, so a broken disk or a half copied folder costs a rebuild and never a wrong answer or a crash.
    """
    path = folder / record.name
    if path.name != record.name:
        raise Damaged(f"{record.name!r} is no plain file name")
    if (size_bytes := path.stat().st_size) != record.size_bytes:
        raise Damaged(f"{record.name} has {size_bytes} bytes; {record.size_bytes} were written")
    if _digest(path) != record.sha256:
        raise Damaged(f"{record.name} is not what was written (its SHA-256 differs)")


def mapped_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map an array from a checked file; raises Damaged where it is not of this size."""
    size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if path.stat().st_size != size_bytes:
        raise Damaged(
            f"{path.name} has {path.stat().st_size} bytes; {list(shape)} {np.dtype(dtype)} needs {size_bytes}"
        )
    return np.asarray(np.memmap(path, dtype, mode="r", shape=shape))  # NumPy's own class for it is slower to index


def replace_text(path: Path, text: str) -> None:
    """Put a text in a file's place: readers, and a restart after a crash, find the old one or this one."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    sync(beside)
    os.replace(beside, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
