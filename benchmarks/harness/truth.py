"""The exact nearest rows of every query, found once and kept in a cache folder, and the recall of what was found.

Candidates come from one matrix product in float32; their distances are then computed in float64, from differences.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.datasets import DataSet, row_of
from benchmarks.peers.protocol import Embeddings, Metric
from ops.measures import recall_at_k

TOP_K = 10
SPARE = 40
"""Candidates beyond those wanted, in case float32 puts them in another order."""
BLOCK_ROWS = 50_000
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-5
"""Peers store half or single precision, and of rows so equally near any will do (as in ann-benchmarks)."""


@dataclass(frozen=True)
class Truth:
    """Distances float64 [q, k] of the nearest rows that match, nearest first; k is 10 or all that match.

    Rows match whose number is below `bound`; without one all do.
    """

    distances: NDArray[np.float64]
    bound: int | None

    @property
    def top_k(self) -> int:
        """How many hits there are to find."""
        return int(self.distances.shape[1])


def truth_of(data: DataSet, bound: int | None = None) -> Truth:
    """The truth among rows whose number is below `bound`, from the cache or computed now."""
    path = cache_folder() / f"truth-{data.checksum[:32]}-{'all' if bound is None else bound}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        being_written = path.with_suffix(f".{os.getpid()}.npy")
        np.save(being_written, _computed(data, bound))
        being_written.replace(path)
    return Truth(np.load(path), bound)


def recalls(data: DataSet, truth: Truth, positions: list[int], found: list[list[str]]) -> list[float]:
    """The recall@10 of each answer; `positions` are of its query in the data set."""
    return [_recall(data, truth, position, ids) for position, ids in zip(positions, found, strict=True)]


def distances(queries: Embeddings, rows: Embeddings, metric: Metric) -> NDArray[np.float64]:
    """Distances float64 [q, n] of float32 [q, d] and [q, n, d]: Euclidean, or 1 less the cosine."""
    asked, wide = queries.astype(np.float64)[:, None], rows.astype(np.float64)
    if metric == "l2":
        found: NDArray[np.float64] = np.linalg.norm(wide - asked, axis=2)
        return found
    lengths = np.linalg.norm(wide, axis=2) * np.linalg.norm(asked, axis=2)
    cosine: NDArray[np.float64] = 1 - np.einsum("qnd,qnd->qn", wide, np.broadcast_to(asked, wide.shape)) / lengths
    return cosine


def cache_folder() -> Path:
    """Where truths are kept: $XDG_CACHE_HOME/ragstone-benchmarks, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ragstone-benchmarks"


def _recall(data: DataSet, truth: Truth, position: int, ids: list[str]) -> float:
    """An answer gains nothing by a row that does not match, nor by one that it holds twice."""
    true = truth.distances[position]
    if not len(true):
        return 1.0
    rows = np.array([row_of(id_) for id_ in ids], dtype=np.int64)
    scores = -distances(data.queries[position][None], data.embeddings[rows][None], data.metric)[0]
    if truth.bound is not None:
        scores[data.numbers[rows] >= truth.bound] = -np.inf
    tolerance = ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * float(true[-1])
    return recall_at_k(ids, scores.tolist(), (-true).tolist(), TOP_K, tolerance)


def _computed(data: DataSet, bound: int | None) -> NDArray[np.float64]:
    rows = np.arange(len(data)) if bound is None else np.flatnonzero(data.numbers < bound)
    best = np.empty((len(data.queries), 0), dtype=np.int64)
    nearness = np.empty((len(data.queries), 0), dtype=np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        part = rows[start : start + BLOCK_ROWS]
        scores = _nearness(data.queries, data.embeddings[part], data.metric)
        kept = np.argpartition(-scores, min(TOP_K + SPARE, len(part)) - 1, axis=1)[:, : TOP_K + SPARE]
        best = np.concatenate([best, part[kept]], axis=1)
        nearness = np.concatenate([nearness, np.take_along_axis(scores, kept, axis=1)], axis=1)
    first = np.argsort(-nearness, axis=1, kind="stable")[:, : TOP_K + SPARE]
    candidates = np.take_along_axis(best, first, axis=1)
    pieces = [
        np.sort(distances(query[None], data.embeddings[near][None], data.metric), axis=1)[:, :TOP_K]
        for query, near in zip(data.queries, candidates, strict=True)
    ]
    return np.concatenate(pieces)


def _nearness(queries: Embeddings, rows: Embeddings, metric: Metric) -> NDArray[np.float32]:
    """Higher for nearer, float32 [q, n]; of each query only the order counts."""
    products = queries @ rows.T
    squared = np.einsum("nd,nd->n", rows, rows)
    found: NDArray[np.float32] = 2 * products - squared if metric == "l2" else products / np.sqrt(squared)
    return found
