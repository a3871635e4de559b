"""How far a backup, a restore or a verification is; and stopping it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Unit = Literal["chunks", "bytes", "files"]


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` in the phase under way. `left_s` is None before there is a rate to reckon with."""

    phase: str
    done: int
    total: int
    unit: Unit
    left_s: float | None = None


Watch = Callable[[Progress], None]
"""Told now and then how far it is; what it raises ends that, and is raised again."""


def nobody(_: Progress) -> None:
    """The Watch of whoever does not want to know."""


class Meter:
    """Counts one phase from any thread, and tells the watch; its rate gives the time left."""

    def __init__(self, watch: Watch, phase: str, total: int, unit: Unit) -> None:
        self._watch = watch
        self._phase = phase
        self._total = total
        self._unit = unit
        self._done = 0
        self._began_s = time.monotonic()
        self._turn = threading.Lock()

    def add(self, count: int) -> None:
        """Count what was done since the last time."""
        with self._turn:
            self._done += count
            self._tell()

    def share(self, done: int, total: int) -> None:
        """Set how much is done, where somebody else counts in units of his own."""
        with self._turn:
            self._done = self._total * done // total if total else 0
            self._tell()

    def _tell(self) -> None:
        spent_s = time.monotonic() - self._began_s
        left = self._total - self._done
        left_s = spent_s * left / self._done if self._done and left >= 0 else None
        self._watch(Progress(self._phase, self._done, max(self._total, self._done), self._unit, left_s))
