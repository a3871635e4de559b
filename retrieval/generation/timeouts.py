"""How long a model server may take, each wait apart."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

_LEAST_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds for: the connection, the first token of an answer, each next one, and the whole answer."""

    connect_s: float = 5.0
    first_token_s: float = 60.0
    read_s: float = 60.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """When to stop waiting, in the event loop's time, and what to say then: the limit and its setting.

    A server that speaks until the end of it is slow, or its reader is: that is no fault.
    """

    at: float
    missed: str
    servers_fault: bool = True


class Deadlines:
    """The deadlines of one answer, which begins as this is made."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._now = asyncio.get_running_loop().time
        self._read_s = timeouts.read_s
        begins = self._now()
        self.first_token = Deadline(
            begins + timeouts.first_token_s,
            f"no first token came within {timeouts.first_token_s:g} s (generator_first_token_timeout_s)",
        )
        self._total = Deadline(
            begins + timeouts.total_s,
            f"the answer was not finished within {timeouts.total_s:g} s (generator_total_timeout_s)",
            servers_fault=False,
        )
        self._silence = f"nothing more came for {timeouts.read_s:g} s (generator_read_timeout_s)"

    def before_first_token(self) -> Deadline:
        return min(self.first_token, self._total, key=lambda deadline: deadline.at)

    def next_piece(self, since: float) -> Deadline:
        """Return when a piece must have come that is waited for since then."""
        at = since + self._read_s
        return self._total if self._total.at < at else Deadline(at, self._silence)

    def leave_time_for(self, pause_s: float) -> bool:
        """Whether the first token may still come after a pause of this length."""
        return self._now() + pause_s < self.before_first_token().at


class Watch:
    """Hangs up when the next piece is late, by one timer for a whole answer: one for each piece costs CPU.

    A reader who does not wait for a piece is not late: only what is waited for counts.
    """

    def __init__(self, deadlines: Deadlines, hang_up: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadlines = deadlines
        self._hang_up = hang_up
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.missed: Deadline | None = None
        """The deadline that was missed, once it hung up."""

    def wait(self) -> None:
        """A piece is waited for from now on."""
        self._since = self._loop.time()
        if self._timer is None:
            self._look()

    def heard(self) -> None:
        """It has come."""
        self._since = None

    def end(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        deadline = self._deadlines.next_piece(now if self._since is None else self._since)
        if self._since is not None and now >= deadline.at:
            self.missed = deadline
            self._hang_up()
            return
        self._timer = self._loop.call_at(max(deadline.at, now + _LEAST_PAUSE_S), self._look)
