"""Building beside queries without getting into their way."""

import os
import time
from contextlib import suppress

NICENESS = 19


def be_gentle() -> None:
    """Let everything else on this machine go before this process."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def renice(process_id: int) -> None:
    """Let everything else go before another process of ours: the one in the embedded PostgreSQL that builds."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process_id, NICENESS)


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
