"""How the test server misbehaves when it is told to."""

import random
import threading
import time
from dataclasses import dataclass, fields

import grpc

CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""What gRPC says for an HTTP status."""


@dataclass(slots=True)
class Manners:
    """What goes wrong. The counts go down as they are used up.

    visible_after_s: how long a written vector stays hidden from searches, as with ASYNC_INDEXING.
    fail_next, fail_share, status: the next calls, or a share of all, are answered by this HTTP status (or by the
        gRPC code for it).
    sleep_s: every call waits so long before it is answered.
    drop_next: the connection of the next calls breaks off without an answer.
    lose_next: the next writes are acknowledged and forgotten.
    refuse_next: of the next objects written, so many come back with an error of their own.
    only: the calls that the faults above concern, "Search" or "POST"; all where it is empty.
    """

    visible_after_s: float = 0.0
    fail_next: int = 0
    fail_share: float = 0.0
    status: int = 503
    sleep_s: float = 0.0
    drop_next: int = 0
    lose_next: int = 0
    refuse_next: int = 0
    only: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a call gets in place of its answer: an HTTP status, or None where the connection breaks off."""

    status: int | None


class Behaviour:
    """The manners in force, and what each call is to suffer from them."""

    def __init__(self, seed: int = 0) -> None:
        self._manners = Manners()
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self.stopping = threading.Event()

    def set(self, **manners: float | str) -> None:
        with self._lock:
            self._manners = Manners()
            known = {made.name for made in fields(Manners)}
            for name, value in manners.items():
                assert name in known, f"no such manner: {name}"
                setattr(self._manners, name, value)

    def visible_at(self) -> float:
        return time.monotonic() + self._manners.visible_after_s

    def left(self, name: str) -> int:
        return int(getattr(self._manners, name))

    def uses_up(self, name: str) -> bool:
        """Whether the count of this name is not used up yet; it is one less now."""
        with self._lock:
            left = getattr(self._manners, name)
            if left > 0:
                setattr(self._manners, name, left - 1)
            return bool(left > 0)

    def before(self, call: str) -> Fault | None:
        """Wait, and say what this call is to suffer."""
        if self._manners.only not in ("", call):
            return None
        self.stopping.wait(self._manners.sleep_s)
        if self.uses_up("drop_next"):
            return Fault(None)
        if self.uses_up("fail_next") or self._random.random() < self._manners.fail_share:
            return Fault(self._manners.status)
        return None
