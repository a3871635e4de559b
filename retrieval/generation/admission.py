"""How many answers are generated at once, and how many wait for their turn."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from backends.errors import Busy

_LONGEST_RETRY_AFTER_S = 60.0
_FIRST_HELD_S = 1.0
_NEWEST_WEIGHT = 0.1

_Turn = Future[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionStats:
    """`running` and `waiting` as they are now; the rest since the start. `waited_s` is that of everybody together."""

    running: int
    waiting: int
    admitted: int
    refused: int
    waited_s: float


class Admission:
    """Admits `running` at once, first come first served, from threads and event loops alike.

    At most `waiting` more wait, for `wait_s` at most. Whoever finds no room, or waits in vain, gets Busy, whose
    `retry_after_s` is about how long it takes until those who wait have had their turn.
    """

    def __init__(self, running: int, waiting: int, wait_s: float) -> None:
        self._most_running = running
        self._most_waiting = waiting
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._queue: deque[_Turn] = deque()
        self._running = 0
        self._admitted = 0
        self._refused = 0
        self._waited_s = 0.0
        self._held_s = _FIRST_HELD_S

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place, waiting for it in this thread; raises Busy."""
        turn = self._ask()
        asked = time.monotonic()
        try:
            turn.result(self._wait_s)
        except BaseException as error:
            self._give_up(turn, asked, error)
            raise
        with self._held(asked):
            yield

    @asynccontextmanager
    async def aenter(self) -> AsyncIterator[None]:
        """Hold a place, waiting for it on this event loop; a task that is cancelled gives its place up."""
        turn = self._ask()
        asked = time.monotonic()
        try:
            if not turn.done():
                async with asyncio.timeout(self._wait_s):
                    await asyncio.wrap_future(turn)
        except BaseException as error:
            self._give_up(turn, asked, error)
            raise
        with self._held(asked):
            yield

    def stats(self) -> AdmissionStats:
        with self._lock:
            return AdmissionStats(
                running=self._running,
                waiting=len(self._queue),
                admitted=self._admitted,
                refused=self._refused,
                waited_s=self._waited_s,
            )

    def _ask(self) -> _Turn:
        """Take a place, or one in the queue; the future is done when its turn has come."""
        turn: _Turn = Future()
        with self._lock:
            if self._running < self._most_running:  # then nobody waits: a place that is given back goes to the first
                self._running += 1
                turn.set_result(None)
            elif len(self._queue) < self._most_waiting:
                self._queue.append(turn)
            else:
                self._refused += 1
                raise self._busy(f"{self._running} answers are being written and {len(self._queue)} wait")
        return turn

    @contextmanager
    def _held(self, asked: float) -> Iterator[None]:
        began = time.monotonic()
        with self._lock:
            self._admitted += 1
            self._waited_s += began - asked
        try:
            yield
        finally:
            with self._lock:
                self._held_s += _NEWEST_WEIGHT * (time.monotonic() - began - self._held_s)
                self._pass_on()

    def _give_up(self, turn: _Turn, asked: float, error: BaseException) -> None:
        """Leave the queue, or pass on the place that came too late; raises Busy for who waited in vain."""
        with self._lock:
            if turn in self._queue:
                self._queue.remove(turn)
            elif not turn.cancelled():
                self._pass_on()
            self._waited_s += time.monotonic() - asked
            if isinstance(error, TimeoutError):
                self._refused += 1
                raise self._busy(f"no turn came within {self._wait_s:g} s") from error

    def _pass_on(self) -> None:
        """Give a place to the first in the queue who still wants it, or back. The lock is held."""
        while self._queue:
            turn = self._queue.popleft()
            if turn.set_running_or_notify_cancel():
                turn.set_result(None)
                return
        self._running -= 1

    def _busy(self, found: str) -> Busy:
        wait_s = self._held_s * (len(self._queue) + 1) / self._most_running
        return Busy(f"too many answers at once: {found}", retry_after_s=min(max(wait_s, 1.0), _LONGEST_RETRY_AFTER_S))
