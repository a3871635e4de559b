"""Everything that a FaissIndex holds at one moment, and what a change makes of it. Nothing here is changed in place."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.coalescing import coalesced
from backends.faiss.segment import Hits, Segment, compared, no_hits
from backends.faiss.selecting import within
from backends.types import Change, Embeddings, Ids, IndexSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What came since the last sealing: ids int64 [n], embeddings float32 [n, d].

    `serials` [n], ascending, number the rows as they came and are never used twice: an id that is upserted again
    is another row.
    """

    ids: Ids
    embeddings: Embeddings
    serials: Ids
    next_serial: int

    def changed(self, gone: Ids, ids: Ids, embeddings: Embeddings) -> "Delta":
        """Return the delta without the rows of ids `gone`, and with these behind. `gone` are ascending."""
        stays = ~within(self.ids, gone)
        kept = self if stays.all() else self._of(stays)
        serials = np.arange(self.next_serial, self.next_serial + len(ids))
        return Delta(
            ids=np.concatenate([kept.ids, ids]),
            embeddings=np.concatenate([kept.embeddings, embeddings]),
            serials=np.concatenate([kept.serials, serials]),
            next_serial=self.next_serial + len(ids),
        )

    def after(self, serial: int) -> "Delta":
        """Return the rows that came after this one."""
        return self._of(self.serials > serial)

    def search(self, queries: Embeddings, candidates: int, spec: IndexSpec, allowed: Ids | None) -> Hits:
        """Compare all rows, or those of the allowed ids."""
        ids, embeddings = self.ids, self.embeddings
        if allowed is not None:
            chosen = within(ids, allowed)
            ids, embeddings = ids[chosen], embeddings[chosen]
        if not len(ids):
            return no_hits(len(queries))
        scores, at = compared(queries, embeddings, candidates, spec)
        return scores, ids[at]

    def _of(self, chosen: NDArray[np.bool_]) -> "Delta":
        return Delta(
            ids=self.ids[chosen],
            embeddings=self.embeddings[chosen],
            serials=self.serials[chosen],
            next_serial=self.next_serial,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Segments and delta: an id is live in one place at most. `applied` is the number that all of it stands at."""

    segments: tuple[Segment, ...]
    delta: Delta
    applied: int

    @property
    def count(self) -> int:
        return sum(segment.live.count for segment in self.segments) + len(self.delta.ids)

    def changed(self, changes: Sequence[Change]) -> "State":
        """Return what these changes, in order, make of it. They are taken together: the delta is copied once."""
        news = [change for change in changes if change.sequence > self.applied]
        if not news:
            return self
        upserts, deletes = coalesced(news)
        gone = np.union1d(upserts.ids, deletes)
        segments = (segment.without(gone) for segment in self.segments)
        return State(
            segments=tuple(segment for segment in segments if segment.live.count),
            delta=self.delta.changed(gone, upserts.ids, upserts.embeddings),
            applied=news[-1].sequence,
        )


def empty_delta(spec: IndexSpec) -> Delta:
    nothing = np.empty(0, np.int64)
    return Delta(ids=nothing, embeddings=np.empty((0, spec.dimension), np.float32), serials=nothing, next_serial=0)


def delta_of(ids: Ids, embeddings: Embeddings, spec: IndexSpec) -> Delta:
    """Return a delta of these rows."""
    return empty_delta(spec).changed(ids[:0], ids, embeddings)
