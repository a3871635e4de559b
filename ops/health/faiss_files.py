"""Whether the files of a FAISS index are what was written. Needs FAISS installed."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from backends.faiss.files import Damaged, FileRecord, check
from backends.faiss.snapshots import MANIFEST, saved_applied

READ_TRIES = 3
PROVEN_S = 86_400.0
"""Files never change, so that one that was read whole is read again for what its disk may do to it, once a day."""


def damage(folder: Path, look_out: Callable[[], None]) -> str | None:
    """Return what is wrong with a snapshot; None where nothing is.

    Its owner may replace it while it is read: then the new one is. `look_out` is called before each file that is
    read, and may raise.
    """
    problem = None
    for _ in range(READ_TRIES):
        manifest = _manifest(folder)
        try:
            _prove(folder, manifest, look_out)
        except (Damaged, OSError, ValueError) as error:
            problem = str(error)
            if _manifest(folder) == manifest:
                return problem
        else:
            return None
    return problem


def _manifest(folder: Path) -> bytes | None:
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return None


def _prove(folder: Path, manifest: bytes | None, look_out: Callable[[], None]) -> None:
    if manifest is None:
        raise Damaged(f"there is no {MANIFEST} in {folder.name}")
    if saved_applied(folder) < 0:
        raise Damaged(f"{MANIFEST} is not what was written")
    for file in _files(json.loads(manifest)):
        status = (folder / file.name).stat()
        seen = (str(folder / file.name), status.st_ino, status.st_size, status.st_mtime_ns)
        if not _proven.has(seen):
            look_out()
            check(folder, file)
            _proven.add(seen)


def _files(part: object) -> Iterator[FileRecord]:
    """Give every file that a manifest names, wherever it does."""
    if isinstance(part, dict) and part.keys() == set(FileRecord.__dataclass_fields__):
        yield FileRecord(**part)
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _files(inner)


class _Proven:
    """Files, as they were, that were read whole within the last day."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_s: dict[object, float] = {}

    def has(self, seen: object) -> bool:
        with self._lock:
            return time.monotonic() - self._at_s.get(seen, float("-inf")) < PROVEN_S

    def add(self, seen: object) -> None:
        now_s = time.monotonic()
        with self._lock:
            self._at_s = {key: at_s for key, at_s in self._at_s.items() if now_s - at_s < PROVEN_S}
            self._at_s[seen] = now_s


_proven = _Proven()
