"""Sets of chunk ids as runs: ids are given in blocks and seldom deleted, so that a few pairs of numbers hold many."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Self

import numpy as np
from numpy.typing import NDArray

from backends.types import Ids

MAX_ID = (1 << 62) - 1
"""Numbers beside it do not overflow. Blocks of 2^20 ids come to it after 4 million million writes."""

_Wanted = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Ids in runs: int64 `first` [n] and `last` [n], both inclusive; ascending, apart, and not adjacent."""

    first: Ids
    last: Ids

    @classmethod
    def empty(cls) -> Self:
        """Return the set without ids."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64))

    @classmethod
    def from_ids(cls, ids: Ids) -> Self:
        """Return the runs of ids int64 [n], strictly ascending."""
        breaks = np.flatnonzero(np.diff(ids) != 1)
        return cls(ids[np.concatenate([[0], breaks + 1])], ids[np.append(breaks, -1)]) if len(ids) else cls.empty()

    @classmethod
    def from_arrays(cls, first: Ids, last: Ids) -> Self:
        """Return runs read from a file; raises ValueError where they are not ascending, apart and not adjacent."""
        if len(first) != len(last):
            raise ValueError(f"found {len(first)} first and {len(last)} last ids; needed as many")
        bounds = np.stack([first, last], axis=1)
        if len(first) and (bounds.min() < 0 or bounds.max() > MAX_ID or (bounds[:, 1] < bounds[:, 0]).any()):
            raise ValueError(f"found a run that ends before it begins, or leaves 0 to {MAX_ID}")
        if (first[1:] - 1 <= last[:-1]).any():
            raise ValueError("found runs that overlap, touch or go backwards; needed ascending runs with gaps between")
        return cls(first.astype(np.int64), last.astype(np.int64))

    @classmethod
    def join(cls, parts: list["Runs"]) -> "Runs":
        """Return the ids of any of the parts."""
        while len(parts) > 1:  # in pairs, so that no id is copied more often than it must
            parts = [left.union(right) for left, right in zip_longest(parts[::2], parts[1::2], fillvalue=cls.empty())]
        return parts[0] if parts else cls.empty()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Runs):
            return NotImplemented
        return np.array_equal(self.first, other.first) and np.array_equal(self.last, other.last)

    __hash__ = None  # type: ignore[assignment]  # two arrays

    @property
    def count(self) -> int:
        """How many ids there are."""
        return int((self.last - self.first + 1).sum())

    def contains(self, ids: Ids) -> NDArray[np.bool_]:
        """Return for each of ids int64 [n] whether it is among these."""
        if not len(self.first):
            return np.zeros(len(ids), np.bool_)
        run = np.searchsorted(self.first, ids, side="right") - 1
        found: NDArray[np.bool_] = (run >= 0) & (ids <= self.last[np.maximum(run, 0)])
        return found

    def union(self, other: "Runs") -> "Runs":
        """Return the ids of either."""
        return self._combined(other, lambda ours, theirs: (ours > 0) | (theirs > 0))

    def difference(self, other: "Runs") -> "Runs":
        """Return the ids that are not among the others."""
        return self._combined(other, lambda ours, theirs: (ours > 0) & (theirs == 0))

    def _combined(self, other: "Runs", wanted: _Wanted) -> "Runs":
        """Sweep over all bounds: between two of them nothing changes."""
        edges = np.concatenate([self.first, self.last + 1, other.first, other.last + 1])
        ours = np.concatenate([_steps(self), np.zeros(2 * len(other.first), np.int64)])
        theirs = np.concatenate([np.zeros(2 * len(self.first), np.int64), _steps(other)])
        order = np.argsort(edges, kind="stable")
        edges = edges[order]
        inside = wanted(np.cumsum(ours[order]), np.cumsum(theirs[order]))
        last_of_edge = np.append(edges[1:] != edges[:-1], True)[: len(edges)]
        edges, inside = edges[last_of_edge], inside[last_of_edge]
        changes = np.flatnonzero(np.diff(np.concatenate([[False], inside]).astype(np.int8)))
        bounds = edges[changes]
        return Runs(bounds[0::2], bounds[1::2] - 1)


def _steps(runs: Runs) -> NDArray[np.int64]:
    """One run begins at each first id, and one ends after each last."""
    count = len(runs.first)
    return np.repeat(np.array([1, -1], np.int64), count)
