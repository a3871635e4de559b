"""What a searcher remembers of filters: which chunks match, and whether asking the index for them pays."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from backends.filters import Filter
from backends.types import Ids

FILTERS_KEPT = 1_024
IDS_KEPT = 2_000_000
"""Of all filters together: 16 MB."""
LONGEST_REST = 5
"""Doublings: an index that never finds enough is asked once in 2^5 searches."""


class Attempts:
    """How the index fared with one filter, so that a fruitless attempt is not paid for by every search.

    A filter can match little of what lies near a query. The index comes short then, and all that matches has to be
    compared after all. After one such search the next is compared at once, after two in a row the next three, and so
    on. Threads that meet here may lose a count: it decides what is tried first, never what is found.
    """

    __slots__ = ("_failed", "_rest", "is_overtaken")

    def __init__(self) -> None:
        self._failed = 0
        self._rest = 0
        self.is_overtaken = False
        """Whether a change was seen that came after the ids were read."""

    def pays(self) -> bool:
        """Whether to ask the index first this time."""
        if self._rest > 0:
            self._rest -= 1
            return False
        return True

    def note(self, *, reached: bool) -> None:
        """Note whether the index found enough."""
        self._failed = 0 if reached else min(self._failed + 1, LONGEST_REST)
        self._rest = (1 << self._failed) - 1


@dataclass(frozen=True, slots=True)
class Matching:
    """What is known of the chunks that match a filter, as of number `sequence` of the collection's changes.

    `count` is how many of the collection's `chunks` match, "or more" where `is_cut`, None where that was not counted.
    `ids`, int64 [count] ascending, are there where few enough match.
    """

    count: int | None = None
    chunks: int = 0
    ids: Ids | None = None
    sequence: int = 0
    is_cut: bool = False
    attempts: Attempts = field(default_factory=Attempts, compare=False)

    def proposals(self, top_k: int, most: int) -> int:
        """Return how many chunks, nearest first, surely hold `top_k` that match, if nearness says nothing of that.

        With a share p matching, the number until the k-th match has the mean k/p and the standard deviation
        sqrt(k(1-p))/p (negative binomial): two deviations more than the mean suffice in 19 of 20 searches.
        """
        if self.ids is None or not len(self.ids):
            return most
        wanted = (top_k + 2 * math.sqrt(top_k)) * self.chunks / len(self.ids)
        return min(max(math.ceil(wanted), top_k), most)


UNKNOWN = Matching()


class Selections:
    """What is known of filters, for a while: it steers a search and never changes its hits. Safe from any thread.

    Ids are right for the number that they were read at, whenever that was: what came later is looked at in the search
    itself, and where that is much, it says so. So they may be kept for longer than counts, for `ids_ttl_s`.
    """

    def __init__(self, ttl_s: float, ids_ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._ids_ttl_s = ids_ttl_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Matching]] = OrderedDict()
        """By the filter's jsonpath: two filters that Python takes for equal, 1 and true, are not."""
        self._ids = 0

    def get(self, filter: Filter, find: Callable[[bool], Matching]) -> Matching:
        """Return what is remembered of a filter, or what `find(False)` says of it now.

        A filter that comes again before that is old is worth a longer look where the first was cut: `find(True)`.
        """
        key = filter.jsonpath()
        with self._lock:
            kept = self._kept.get(key)
            is_known = kept is not None and self._is_good(*kept)
            if kept is not None and is_known and not kept[1].is_cut:
                self._kept.move_to_end(key)
                return kept[1]
        return self.renew(filter, lambda: find(is_known))

    def renew(self, filter: Filter, find: Callable[[], Matching]) -> Matching:
        """Remember what `find` says now."""
        found, key = find(), filter.jsonpath()
        with self._lock:
            self._drop(key)
            self._kept[key] = time.monotonic(), found
            self._ids += _size(found)
            while len(self._kept) > FILTERS_KEPT or (self._ids > IDS_KEPT and len(self._kept) > 1):
                self._drop(next(iter(self._kept)))
        return found

    def _is_good(self, since_s: float, matching: Matching) -> bool:
        ttl_s = self._ttl_s if matching.ids is None else self._ids_ttl_s
        return time.monotonic() - since_s < ttl_s

    def _drop(self, key: str) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._ids -= _size(dropped[1])


def _size(matching: Matching) -> int:
    return 0 if matching.ids is None else len(matching.ids)
