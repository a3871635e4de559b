"""A circuit breaker: after failures in a row a server is left alone for a while, and then tried by one."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from backends.errors import GeneratorUnavailable

State = Literal["closed", "open", "half_open"]

_PROBE_S = 1.0
"""About how long the one request takes that finds out."""


class Attempt:
    """One request, which tells how it went: `failed`, `succeeded`, or `answered` where that is not known yet.

    One that tells nothing, since its caller went away, counts for nothing.
    """

    def __init__(self, breaker: "Breaker") -> None:
        self._breaker = breaker

    def failed(self) -> None:
        self._breaker._failed(self)

    def succeeded(self) -> None:
        self._breaker._succeeded()

    def answered(self) -> None:
        self._breaker._answered(self)


class Breaker:
    """Closed, all pass. After `failures` in a row with no success between, open: none passes for `open_s`.

    Then it is half open: one passes, the probe. An answer to it closes the breaker, its failure opens it again.
    Safe from any thread.
    """

    def __init__(self, name: str, failures: int, open_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`name` is the server's, for messages."""
        self._name = name
        self._most_failures = failures
        self._open_s = open_s
        self._clock = clock
        self._lock = threading.Lock()
        self._opened_at: float | None = None
        self._probe: Attempt | None = None
        self._in_a_row = 0
        self.failed = 0
        """Failures since the start."""
        self.opened = 0
        """How often it opened since the start."""
        self.refused = 0
        """Requests that were not tried since the start."""

    @property
    def state(self) -> State:
        if self._opened_at is None:
            return "closed"
        return "open" if self._left_s(self._opened_at) > 0 else "half_open"

    def check(self) -> None:
        """Raise GeneratorUnavailable where no request may pass now."""
        with self._lock:
            if self._opened_at is not None:
                left_s = self._left_s(self._opened_at)
                if left_s > 0 or self._probe is not None:
                    raise self._refusal(left_s)

    @contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """Let a request pass; raises GeneratorUnavailable at once while none may."""
        attempt = self._let_pass()
        try:
            yield attempt
        finally:
            with self._lock:
                self._done(attempt)

    def _let_pass(self) -> Attempt:
        attempt = Attempt(self)
        with self._lock:
            if self._opened_at is None:
                return attempt
            left_s = self._left_s(self._opened_at)
            if left_s <= 0 and self._probe is None:
                self._probe = attempt
                return attempt
            raise self._refusal(left_s)

    def _refusal(self, left_s: float) -> GeneratorUnavailable:
        self.refused += 1
        when = f"in {left_s:.1f} s" if left_s > 0 else "now, with one request"
        return GeneratorUnavailable(
            f"{self._name} failed {self._in_a_row} times in a row and is left alone; it is tried again {when}",
            retry_after_s=left_s if left_s > 0 else _PROBE_S,
        )

    def _left_s(self, opened_at: float) -> float:
        return opened_at + self._open_s - self._clock()

    def _failed(self, attempt: Attempt) -> None:
        with self._lock:
            self.failed += 1
            self._in_a_row += 1
            # What began before it opened says nothing new.
            if attempt is self._probe or (self._opened_at is None and self._in_a_row >= self._most_failures):
                self._opened_at = self._clock()
                self.opened += 1
            self._done(attempt)

    def _succeeded(self) -> None:
        with self._lock:
            self._in_a_row = 0
            self._opened_at = None

    def _answered(self, attempt: Attempt) -> None:
        with self._lock:
            if attempt is self._probe:
                self._opened_at = None
                self._in_a_row = self._most_failures - 1  # breaking off after all opens it again
            self._done(attempt)

    def _done(self, attempt: Attempt) -> None:
        """Let another be the probe. The lock is held."""
        if attempt is self._probe:
            self._probe = None
