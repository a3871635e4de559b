"""Locks on files: they vanish with the process that holds them, however it ends."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

Say = Callable[[str], None]

SAY_EVERY_S = 5.0


class FileLock:
    """An open lock file. Two of them exclude each other within one process just as between two.

    A lock is given back by closing, never by unlocking: a forked child shares it, and it ends with the last
    copy. Only a lock that `survives_fork` is left to such a child.
    """

    def __init__(self, path: Path, *, survives_fork: bool = False) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        give_to_owner_of(path.parent, self.descriptor)
        if not survives_fork:
            _closed_in_children.add(self)

    def try_shared(self) -> bool:
        """Take or keep the lock beside others who share it; False where somebody has it alone."""
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Take the lock alone; False where somebody else has it."""
        return self._try(fcntl.LOCK_EX)

    def close(self) -> None:
        """Give the lock back. Calling it again does nothing."""
        _closed_in_children.discard(self)
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _try(self, mode: int) -> bool:
        try:
            fcntl.flock(self.descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_closed_in_children: set[FileLock] = set()


def _close_in_child() -> None:
    for lock in list(_closed_in_children):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)


def is_held(path: Path) -> bool:
    """Say whether anybody has this lock; for who holds the lock that lets only one ask at a time."""
    with FileLock(path) as probe:
        return not probe.try_exclusive()


def wait_until(done: Callable[[], bool], waiting_for: str, say: Say) -> None:
    """Return once `done` says so, however long it takes; every 5 s `say` hears what is being waited for."""
    began = time.monotonic()
    told_s = 0.0
    while not done():
        waited_s = time.monotonic() - began
        if waited_s - told_s >= SAY_EVERY_S:
            told_s = waited_s
            say(f"waiting for {waiting_for}, {waited_s:.0f} s so far")
        time.sleep(min(0.05, 0.004 + waited_s / 50))


def give_to_owner_of(folder: Path, descriptor: int) -> None:
    """Where root makes a file in another's folder, let it belong to the folder's owner, who must open it too."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
