"""A segment: rows in one FAISS index that never changes, less those that are deleted."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.faiss.files import FileRecord
from backends.faiss.gpu import MAX_HITS, OnCard
from backends.faiss.kinds import Kind, probes_of
from backends.faiss.library import faiss
from backends.faiss.making import metric_of
from backends.faiss.selecting import Selection, of_rows, positions
from backends.types import Embeddings, Ids, IndexSpec

Scores = NDArray[np.float32]
Hits = tuple[Scores, Ids]
"""Scores and ids, [q, n] both, nearest first."""
FEW_ROWS = 5_000
FEW_SHARE = 0.02
"""Up to so many rows, or such a share, comparing them all is as quick as walking a graph that mostly leads past:
of 1,000,000 rows of 128, 20,000 took 5 ms to compare and 4 ms to walk to, 5,000 took 2 ms and 29 ms."""
QUERIES_AT_ONCE = 16
"""FAISS compares 20 queries or more through products of matrices, which lose small distances (distances.cpp): an answer
would depend on the queries that it is searched with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Rows with ids int64 [n], ascending, in a FAISS index; `live` are those that are not deleted.

    `index` is the form in files, on the CPU. `vectors` [n, d] is there for the kinds that lose precision. `card`
    is a copy on a GPU.
    """

    name: str
    kind: Kind
    ids: Ids
    index: Any
    live: Selection
    files: tuple[FileRecord, ...]
    vectors: NDArray[Any] | None = None
    card: OnCard | None = None

    def without(self, ids: Ids) -> "Segment":
        """Return the segment with these ids deleted, as far as it has them; they are distinct."""
        rows = positions(self.ids, ids)
        rows = rows[self.live.has(rows)]
        return replace(self, live=self.live.without(rows)) if len(rows) else self

    def with_card(self, card: OnCard) -> "Segment":
        """Return the segment with its copy on a GPU."""
        return replace(self, card=card)

    def with_live(self, live: Selection) -> "Segment":
        """Return the segment with other rows living."""
        return replace(self, live=live)

    def live_ids(self) -> Ids:
        """Return the ids that are not deleted, ascending."""
        return self.ids if self.live.count == len(self.ids) else self.ids[self.live.rows()]

    def embeddings(self, rows: Ids) -> Embeddings:
        """Return these rows as float32 [m, d], as they were given."""
        if self.vectors is not None:
            return self.vectors[rows].astype(np.float32)
        found: Embeddings = self.index.reconstruct_batch(rows)
        return found

    def search(self, queries: Embeddings, candidates: int, spec: IndexSpec, effort: int, allowed: Ids | None) -> Hits:
        """Find the nearest live rows, of the allowed ids alone; full, unless there are not so many."""
        selection = self.live if allowed is None else self._selected(allowed)
        hits = min(candidates, selection.count)
        if not hits:
            return no_hits(len(queries))
        few = selection.count < len(self.ids) and selection.count <= max(FEW_ROWS, FEW_SHARE * len(self.ids))
        if few and self.vectors is not None:
            rows = selection.rows()
            scores, at = compared(queries, self.embeddings(rows), hits, spec)
            return scores, self.ids[rows[at]]
        distances, rows = (
            self._scanned(queries, hits, selection) if few else self._found(queries, hits, effort, selection)
        )
        scores = scores_of(distances, spec)
        if spec.metric == "cosine" and self.kind == "flat":  # the larger kinds may be rough
            scores = scores / _lengths(queries, self.embeddings(rows.ravel()))
        return scores, self.ids[rows]

    def _selected(self, allowed: Ids) -> Selection:
        rows = positions(self.ids, allowed)
        return of_rows(rows[self.live.has(rows)], len(self.ids))

    def _found(self, queries: Embeddings, hits: int, effort: int, selection: Selection) -> Hits:
        """Search in the kind's own way. Rows that are not selected cost effort, so it grows as they do."""
        surplus = len(self.ids) / selection.count
        effort = math.ceil(self._effort(effort, hits) * surplus)
        asked = hits if surplus == 1 else math.ceil(hits * surplus * 1.5)
        if self.card is not None and asked <= MAX_HITS:
            distances, rows = _thinned(*self.card.search(queries, asked, effort), hits, selection)
        else:
            parameters = self._parameters(effort, self._selector(selection))
            distances, rows = _asked(self.index, queries, hits, parameters)
        if rows.min() < 0:
            short = (rows < 0).any(axis=1)
            distances[short], rows[short] = self._scanned(queries[short], hits, selection)
        return distances, rows

    def _effort(self, effort: int, hits: int) -> int:
        """FAISS's own number for an effort; 0 takes the default."""
        if self.kind in ("ivf_sq8", "ivf_pq"):
            return effort or probes_of(self.index.nlist)
        return max(effort, hits)

    def _parameters(self, effort: int, selector: Any) -> Any:
        match self.kind:
            case "hnsw" | "cagra" if selector is None:
                return _walking(effort)
            case "hnsw" | "cagra":
                return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
            case "ivf_sq8" | "ivf_pq":
                return faiss.SearchParametersIVF(nprobe=min(effort, self.index.nlist), sel=selector)
            case _:
                return faiss.SearchParameters(sel=selector)

    def _scanned(self, queries: Embeddings, hits: int, selection: Selection) -> Hits:
        """Look at every selected row: where they are few, and for the rare query whose search ended too early."""
        selector = self._selector(selection)
        index, parameters = self.index, faiss.SearchParameters(sel=selector)
        if self.kind in ("ivf_sq8", "ivf_pq"):
            parameters = self._parameters(index.nlist, selector)
        elif self.kind != "flat":
            index = faiss.downcast_index(index.storage)
        distances, rows = _asked(index, queries, hits, parameters)
        assert rows.min() >= 0, "FAISS left out rows"
        return distances, rows

    def _selector(self, selection: Selection) -> Any:
        return faiss.IDSelectorBitmap(selection.bits) if selection.count < len(self.ids) else None


@functools.lru_cache(maxsize=64)
def _walking(effort: int) -> Any:
    """HNSW's parameters: making them takes a tenth of a short search, and FAISS only reads them."""
    return faiss.SearchParametersHNSW(efSearch=effort)


def compared(queries: Embeddings, embeddings: Embeddings, hits: int, spec: IndexSpec) -> Hits:
    """Compare each query with each embedding: scores and positions, both [q, min(hits, n)], nearest first."""
    hits = min(hits, len(embeddings))
    distances, at = _few_at_once(queries, lambda some: faiss.knn(some, embeddings, hits, metric_of(spec)))
    scores = scores_of(distances, spec)
    return (scores / _lengths(queries, embeddings[at.ravel()]) if spec.metric == "cosine" else scores), at


def _asked(index: Any, queries: Embeddings, hits: int, parameters: Any) -> Hits:
    """Ask an index for its distances and row numbers: many queries in one call, where it takes each by itself."""
    if len(queries) <= QUERIES_AT_ONCE or isinstance(index, faiss.IndexHNSW | faiss.IndexScalarQuantizer):
        distances, rows = index.search(queries, hits, params=parameters)
        return distances, rows
    return _few_at_once(queries, lambda some: index.search(some, hits, params=parameters))


def _few_at_once(queries: Embeddings, search: Callable[[Embeddings], Hits]) -> Hits:
    parts = [search(queries[start : start + QUERIES_AT_ONCE]) for start in range(0, len(queries), QUERIES_AT_ONCE)]
    if len(parts) == 1:
        return parts[0]
    distances, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return distances, rows


def no_hits(queries: int) -> Hits:
    """Nothing found, for so many queries."""
    return np.empty((queries, 0), np.float32), np.empty((queries, 0), np.int64)


def scores_of(distances: NDArray[np.float32], spec: IndexSpec) -> Scores:
    """Turn FAISS's distances into scores: under l2 they are squared, and may come out just below zero."""
    if spec.metric != "l2":
        return distances
    scores: Scores = -np.sqrt(np.maximum(distances, 0))
    return scores


def _lengths(queries: Embeddings, found: Embeddings) -> Scores:
    """Return the product of the lengths of each query and what it found [q * n, d]: rounding left them off 1."""
    lengths = np.linalg.norm(found, axis=1).reshape(len(queries), -1)
    product: Scores = lengths * np.linalg.norm(queries, axis=1)[:, None]
    return product


def merged(parts: list[Hits], candidates: int) -> tuple[list[Ids], list[Scores]]:
    """Give for each query the ids and scores of the nearest of all parts, ties by id."""
    scores, ids = parts[0]
    if len(parts) > 1:
        scores, ids = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    if len(parts) > 1 or not (scores[:, 1:] < scores[:, :-1]).all():
        queries = np.arange(len(ids))[:, None]
        order = np.lexsort((ids, -scores))[:, :candidates]
        scores, ids = scores[queries, order], ids[queries, order]
    return list(ids), list(scores)


def _thinned(distances: NDArray[np.float32], rows: Ids, hits: int, selection: Selection) -> Hits:
    """Keep the first `hits` selected rows of each query; -1 fills up, which `search` takes for too few."""
    wanted = selection.has(rows)
    order = np.argsort(~wanted, axis=1, kind="stable")[:, :hits]
    kept = np.take_along_axis(np.where(wanted, rows, -1), order, axis=1)
    return np.take_along_axis(distances, order, axis=1), kept
