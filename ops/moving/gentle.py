"""Building beside queries without getting into their way."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from backends.corpus.database import Database
from backends.corpus.machine import usable_cores
from retrieval.library import Ragstone

NICENESS = 19
POOL_SIZE = 4


def be_gentle() -> None:
    """Let everything else on this machine go before this process, and leave a core to it.

    Before the library that builds is imported: it reads how many threads it may use only then.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() - 1)))
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


@contextmanager
def gentle_database(rag: Ragstone) -> Iterator[Database]:
    """Open the corpus once more, with sessions that let every query go first where PostgreSQL is ours to slow down."""
    database = Database(rag.database.conninfo, POOL_SIZE, gently=_slow_down if rag.is_embedded else _leave_alone)
    try:
        database.open()
        yield database
    finally:
        database.close()


def _slow_down(process_id: int) -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process_id, NICENESS)


def _leave_alone(_: int) -> None:
    """A PostgreSQL of somebody else's sets its own priorities."""


class Pace:
    """Keeps a build to so many chunks a second; None for as many as there come."""

    def __init__(self, chunks_per_s: float | None) -> None:
        self._chunks_per_s = chunks_per_s
        self._began_s = time.monotonic()
        self._chunks = 0

    def keep(self, chunks: int) -> None:
        """Count these chunks, and wait where they came too soon."""
        self._chunks += chunks
        if self._chunks_per_s is not None:
            due_s = self._began_s + self._chunks / self._chunks_per_s
            time.sleep(max(0.0, due_s - time.monotonic()))
