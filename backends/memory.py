"""An exact index in NumPy: the oracle that others are measured against, the test double, the adapter to read first."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.base import VectorIndex
from backends.filters import OPERATORS, Filter
from backends.types import (
    Batch,
    Candidates,
    Capabilities,
    Change,
    Embeddings,
    Ids,
    IndexIdentity,
    IndexSpec,
    IndexStats,
    Progress,
    nobody,
)
from backends.vectors import exact_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """Everything at one moment. Searches read one state; a change makes the next."""

    ids: Ids
    embeddings: Embeddings
    attributes: list[dict[str, Any]] = field(default_factory=list)
    applied: int = 0


class MemoryIndex(VectorIndex):
    """Compares each query with each embedding, in float64."""

    name = "memory"
    capabilities = Capabilities(filters=frozenset(OPERATORS), selects_ids=True, exact=True)

    def __init__(self, spec: IndexSpec, identity: IndexIdentity) -> None:
        self.spec = spec
        self.identity = identity
        self._write = threading.Lock()
        self._state = self._empty()

    @property
    def is_rough(self) -> bool:
        return False

    def build(self, batches: Iterable[Batch], applied: int, progress: Progress = nobody) -> None:
        state = self._empty()
        for batch in batches:
            state = _changed(state, batch, deletes=batch.ids[:0])
            progress(len(batch.ids))
        with self._write:
            self._state = _at(state, applied)

    def apply(self, changes: Sequence[Change]) -> int:
        with self._write:
            state = self._state
            for change in changes:
                if change.sequence > state.applied:
                    state = _at(_changed(state, change.upserts, change.deletes), change.sequence)
            self._state = state
            return state.applied

    def search(
        self,
        queries: Embeddings,
        candidates: int,
        filter: Filter | None = None,
        effort: int | None = None,
        allowed: Ids | None = None,
    ) -> Candidates:
        del effort  # every search is exact
        state = self._state
        rows = np.arange(len(state.ids))
        if allowed is not None:
            rows = np.flatnonzero(np.isin(state.ids, allowed))
        if filter is not None:
            rows = np.array([row for row in rows if filter.matches(state.attributes[row])], dtype=np.int64)
        ids, scores = [], []
        for query in queries:
            found = exact_scores(query, state.embeddings[rows], self.spec)
            order = np.lexsort((state.ids[rows], -found))[:candidates]
            ids.append(state.ids[rows[order]])
            scores.append(found[order].astype(np.float32))
        return Candidates(ids=ids, scores=scores, applied=state.applied)

    def ids(self) -> Iterator[Ids]:
        yield self._state.ids

    def stats(self) -> IndexStats:
        state = self._state
        return IndexStats(
            count=len(state.ids), applied=state.applied, size_bytes=int(state.embeddings.nbytes), ready=True
        )

    def ping(self) -> None:
        """Nothing to reach."""

    def drop(self) -> None:
        with self._write:
            self._state = self._empty()

    def _empty(self) -> _State:
        return _State(
            ids=np.empty(0, np.int64), embeddings=np.empty((0, self.spec.dimension), np.float32), attributes=[]
        )


def _changed(state: _State, upserts: Batch, deletes: Ids) -> _State:
    stays = ~np.isin(state.ids, np.concatenate([deletes, upserts.ids]))
    return _State(
        ids=np.concatenate([state.ids[stays], upserts.ids]),
        embeddings=np.concatenate([state.embeddings[stays], upserts.embeddings]),
        attributes=[kept for kept, stay in zip(state.attributes, stays, strict=True) if stay] + upserts.attributes,
        applied=state.applied,
    )


def _at(state: _State, applied: int) -> _State:
    return _State(ids=state.ids, embeddings=state.embeddings, attributes=state.attributes, applied=applied)
