"""Which rows of a segment a search may propose: bitmaps for FAISS, one bit for each row."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.types import Ids

Bits = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Selection:
    """`count` rows of a segment, as a bitmap (uint8, lowest bit first)."""

    bits: Bits
    count: int

    def rows(self) -> Ids:
        """Return the selected row numbers, int64, ascending."""
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little"))

    def has(self, rows: Ids) -> NDArray[np.bool_]:
        """Say for each row number whether it is selected; -1, FAISS's filler, is not."""
        found: NDArray[np.bool_] = (rows >= 0) & (self.bits[rows >> 3] >> (rows & 7) & 1).astype(bool)
        return found

    def without(self, rows: Ids) -> "Selection":
        """Return the selection less these rows, each selected and given once."""
        bits = self.bits.copy()
        np.bitwise_and.at(bits, rows >> 3, ~(np.uint8(1) << (rows & 7).astype(np.uint8)))
        return Selection(bits, self.count - len(rows))

    def rows_not_in(self, other: "Selection") -> Ids:
        """Return the rows that are selected here and not there, of the same segment."""
        return Selection(self.bits & ~other.bits, 0).rows()


def every(size: int) -> Selection:
    """Select all of `size` rows."""
    return Selection(np.packbits(np.ones(size, np.uint8), bitorder="little"), size)


def of_rows(rows: Ids, size: int) -> Selection:
    """Select these of `size` rows."""
    flags = np.zeros(size, np.uint8)
    flags[rows] = 1
    return Selection(np.packbits(flags, bitorder="little"), len(rows))


def within(ids: Ids, wanted: Ids) -> NDArray[np.bool_]:
    """Say for each id whether it is one of `wanted`, which are ascending."""
    if not len(wanted):
        return np.zeros(len(ids), bool)
    found: NDArray[np.bool_] = wanted[np.minimum(np.searchsorted(wanted, ids), len(wanted) - 1)] == ids
    return found


def positions(ids: Ids, wanted: Ids) -> Ids:
    """Return where in `ids` (ascending) those of `wanted` are that are there at all."""
    if not len(ids):
        return np.empty(0, np.int64)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    found: Ids = at[ids[at] == wanted]
    return found
