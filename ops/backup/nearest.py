"""The rows nearest to some queries, found by NumPy while all rows come by: what a search is compared with."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from backends.types import Embeddings, Ids, IndexSpec
from backends.vectors import exact_scores, prepare
from ops.backup.row_sums import public_ids
from ops.backup.shards import embeddings_of
from ops.measures import SCORE_EPSILON
from ops.recall.statistics import resampled_means

TOP_K, SEED = 10, 0
SHORTLIST = 40
"""Of so many rows of a block the scores are computed as they are defined; a matrix product says which."""
ROWS_AT_ONCE = 4_096

Best = list[tuple[str, float]]
"""Public ids and scores, nearest first."""


class Nearest:
    """The TOP_K rows nearest to each of `queries`, float32 [q, d], as they come by in batches, scored in float64."""

    def __init__(self, queries: Embeddings, spec: IndexSpec) -> None:
        self.queries = queries
        self.best: list[Best] = [[] for _ in queries]
        self._spec = spec
        self._prepared = prepare(queries, spec)
        self._longest = 0.0

    def add(self, rows: pa.RecordBatch) -> None:
        """Look through the rows of a batch."""
        for start in range(0, len(rows) if len(self.queries) else 0, ROWS_AT_ONCE):
            part = rows.slice(start, ROWS_AT_ONCE)
            embeddings = embeddings_of(part).astype(np.float32)
            for at, picked in enumerate(self._shortlist(embeddings.astype(np.float64))):
                scores = exact_scores(self._prepared[at], embeddings[picked], self._spec)
                self._merge(at, part, picked, scores)

    def tolerance(self, at: int) -> float:
        """Return by how much equal scores may differ: pgvector's float32 errs by a share of the lengths' product."""
        largest = max((abs(score) for _, score in self.best[at]), default=0.0)
        if self._spec.metric == "inner_product":
            largest = max(largest, float(np.linalg.norm(self._prepared[at].astype(np.float64))) * self._longest)
        return SCORE_EPSILON * max(1.0, largest)

    def _merge(self, at: int, rows: pa.RecordBatch, picked: Ids, scores: NDArray[np.float64]) -> None:
        best = self.best[at]
        nearer = np.flatnonzero(scores > (best[-1][1] if len(best) == TOP_K else -np.inf))
        new = zip(public_ids(rows.take(picked[nearer])), scores[nearer].tolist(), strict=True)
        self.best[at] = sorted([*best, *new], key=lambda one: (-one[1], one[0].encode()))[:TOP_K]

    def _shortlist(self, rows: NDArray[np.float64]) -> Ids:
        """Which rows matrix products find nearest, int64 [q, SHORTLIST], in no order: fast, and not quite exact."""
        lengths = np.linalg.norm(rows, axis=1)
        self._longest = max(self._longest, float(lengths.max()))
        products = self._prepared.astype(np.float64) @ rows.T
        if self._spec.metric == "cosine":
            products /= lengths
        elif self._spec.metric == "l2":
            products -= lengths**2 / 2
        last = min(SHORTLIST, len(rows)) - 1
        picked: Ids = np.argpartition(-products, last, axis=1)[:, : last + 1]
        return picked


def agree(found: Best, true: Best, tolerance: float) -> bool:
    """Whether two answers are the same, but for the order of equally near ones, and which of these come last."""
    scores, true_scores = dict(found), dict(true)
    if not len(found) == len(true) == len(scores):
        return False
    last = true[-1][1] if true else 0.0
    pairs = [(one[1], other[1]) for one, other in zip(found, true, strict=True)]
    pairs += [(scores.get(id_, last), true_scores.get(id_, last)) for id_ in scores.keys() | true_scores.keys()]
    return all(abs(one - other) <= tolerance for one, other in pairs)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean by the percentile bootstrap: of many means of values drawn from these.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    means = resampled_means(np.asarray(values, np.float64), np.random.default_rng(SEED))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
