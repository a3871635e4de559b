"""Whether a collection was written to a moment ago, as far as its searches have seen."""

import time

SETTLED_S = 10.0
"""What was written is looked at beside the index for so long: `IS_RECENT` says the same to PostgreSQL."""


class Recency:
    """The number of the last change that a search saw, and since when. Safe from any thread.

    Two threads that meet here may lose what one of them noted: another search notes it again.
    """

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: tuple[int | None, float] = None, float("inf")

    def note(self, sequence: int | None) -> None:
        """Note the number that a search saw."""
        if sequence != self._seen[0]:
            self._seen = sequence, time.monotonic()

    def settled(self) -> int | None:
        """Return the number since which nothing is recent, if it is still the last one; None where none is known."""
        sequence, since_s = self._seen
        return sequence if time.monotonic() - since_s > SETTLED_S else None
