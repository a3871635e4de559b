"""How long a model server may take, each wait apart."""

import asyncio
from dataclasses import dataclass


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

    def next_piece(self) -> Deadline:
        at = self._now() + self._read_s
        return self._total if self._total.at < at else Deadline(at, self._silence)

    def leave_time_for(self, pause_s: float) -> bool:
        """Whether the first token may still come after a pause of this length."""
        return self._now() + pause_s < self.before_first_token().at
