"""What a backup has to write of one collection: the chunks that its parent lacks, in pieces of some megabytes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from backends.corpus.collections import CollectionState
from backends.corpus.exporting import SnapshotReader
from backends.types import Ids
from backends.vectors import KEPT
from ops.backup.parents import Parent
from ops.backup.runs import Runs

IDS_AT_ONCE = 1 << 20
PIECE_BYTES = 32 << 20
MOST_ROWS = 65_536
LEAST_ROWS = 64
ROW_BYTES = 64
"""What a row takes beside its text and its embedding."""
COMPRESSED = 2
"""PostgreSQL keeps long texts compressed: they may be this much longer than their table."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What goes into one file: the chunks of some ranges of ids, each (first, last), inclusive and ascending."""

    number: int
    ranges: list[tuple[int, int]]
    rows: int

    @property
    def first(self) -> int:
        return self.ranges[0][0]

    @property
    def last(self) -> int:
        return self.ranges[-1][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A collection at the snapshot: the ids that are alive, those that went since the parent, and what to write."""

    collection: CollectionState
    parent: Parent | None
    live: Runs
    deletes: Runs
    pieces: list[Piece]


def plan_collection(reader: SnapshotReader, collection: CollectionState, parent: Parent | None) -> Plan:
    """Compare the ids that are there with the parent's.

    A chunk is immutable and its id is never given again, so the ids alone say what is new and what was deleted; the
    change sequence may have forgotten both. Raises CollectionNotFound where the collection was deleted meanwhile.
    """
    if parent is not None and parent.sequence == collection.sequence:  # nothing was written since
        return Plan(collection=collection, parent=parent, live=parent.live, deletes=Runs.empty(), pieces=[])
    known = Runs.empty() if parent is None else parent.live
    rows = _rows_per_piece(reader, collection)
    live: list[Runs] = []
    pieces: list[Piece] = []
    for ids in _all_ids(reader, collection):
        live.append(Runs.from_ids(ids))
        pieces += _pieces(ids, known, rows, len(pieces) + 1)
    alive = Runs.join(live)
    return Plan(collection=collection, parent=parent, live=alive, deletes=known.difference(alive), pieces=pieces)


def _all_ids(reader: SnapshotReader, collection: CollectionState) -> Iterator[Ids]:
    after = -1
    while len(ids := reader.ids(collection, after, IDS_AT_ONCE)):
        yield ids
        after = int(ids[-1])


def _pieces(ids: Ids, known: Runs, rows: int, number: int) -> Iterator[Piece]:
    """Cut the ids that are not known into pieces. A range holds no known id between two new ones."""
    new = np.flatnonzero(~known.contains(ids))
    for start in range(0, len(new), rows):
        part = new[start : start + rows]
        breaks = np.flatnonzero(np.diff(part) != 1)
        first, last = ids[part[np.concatenate([[0], breaks + 1])]], ids[part[np.append(breaks, -1)]]
        yield Piece(number, list(zip(first.tolist(), last.tolist(), strict=True)), len(part))
        number += 1


def _rows_per_piece(reader: SnapshotReader, collection: CollectionState) -> int:
    spec = collection.spec
    embedding_bytes = spec.dimension * np.dtype(KEPT[spec.precision]).itemsize
    text_bytes = COMPRESSED * reader.table_bytes(collection) // max(collection.chunks, 1)
    return max(LEAST_ROWS, min(MOST_ROWS, PIECE_BYTES // (embedding_bytes + text_bytes + ROW_BYTES)))
