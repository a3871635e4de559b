"""The measures of quality and speed, each defined once: for evaluations, live tracking and benchmarks."""

from collections.abc import Hashable, Mapping, Sequence
from math import log2

import numpy as np

from backends.errors import InvalidInput

SCORE_EPSILON = 1e-5
"""Two scores that are this near count as the same."""


def recall_at_k(
    returned_ids: Sequence[Hashable],
    returned_scores: Sequence[float],
    true_scores: Sequence[float],
    top_k: int,
    epsilon: float = SCORE_EPSILON,
) -> float:
    """Return the share of the true `top_k` nearest that a search returned, between 0 and 1.

    `true_scores` are those of an exact search, best first. A returned id counts where its score reaches the
    last true one less `epsilon`, so that of several equally near chunks any will do; the same id counts
    once. The returned scores are exact ones of the stored embeddings, not an index's estimates. Where fewer
    than `top_k` exist, those are all there is to find; where none exists, nothing was missed and the
    recall is 1.
    """
    wanted = min(top_k, len(true_scores))
    if wanted == 0:
        return 1.0
    worst = true_scores[wanted - 1] - epsilon
    returned = list(zip(returned_ids, returned_scores, strict=True))[:wanted]
    return len({id_ for id_, score in returned if score >= worst}) / wanted


def distance_ratio(
    returned_distances: Sequence[float], true_distances: Sequence[float], epsilon: float = SCORE_EPSILON
) -> float:
    """Return how much farther than the true ones the returned chunks are, on the mean over the ranks: 1 for equal.

    Both are distances, nearest first. Ranks with nothing returned are left out, recall tells of them; so are ranks
    whose true distance is no more than `epsilon`, for which a ratio says nothing. 1 where no rank is left. The
    "overall ratio" of Tao, Yi, Sheng and Kalnis, SIGMOD 2009, https://doi.org/10.1145/1559845.1559905.
    """
    pairs = zip(returned_distances, true_distances, strict=False)
    ratios = [max(found / true, 1.0) for found, true in pairs if true > epsilon]
    return sum(ratios) / len(ratios) if ratios else 1.0


def percentiles(values: Sequence[float], percents: Sequence[float] = (50, 95, 99)) -> dict[str, float]:
    """Return `{"p50": ..., "p95": ..., "p99": ...}` of `values`, linear between the two nearest of them.

    Raises InvalidInput where there are no values.
    """
    if len(values) == 0:
        raise InvalidInput("values", "there are none; a percentile needs at least one")
    found = np.percentile(np.asarray(values, dtype=np.float64), percents)
    return {f"p{percent:g}": float(value) for percent, value in zip(percents, found, strict=True)}


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """Return the document ids best first, as trec_eval orders them.

    It keeps scores in single precision, and of equal ones it puts the greater id first.
    """
    return sorted(scores, key=lambda id_: (np.float32(scores[id_]), id_), reverse=True)


def ndcg(ranking: Sequence[str], judgements: Mapping[str, int], cut: int) -> float:
    """Return the normalised discounted cumulative gain of the first `cut` documents of a ranking.

    The gain is the grade itself (linear), the discount log2(rank + 1), as in trec_eval's ndcg_cut. A
    document without a judgement, or with one below 0, gains nothing.
    """
    ideal = _discounted_gain(sorted(judgements.values(), reverse=True)[:cut])
    found = _discounted_gain([judgements.get(id_, 0) for id_ in ranking[:cut]])
    return found / ideal if ideal else 0.0


def judged_recall(ranking: Sequence[str], judgements: Mapping[str, int], cut: int) -> float:
    """Return the share of the relevant documents (grade above 0) among the first `cut` of a ranking."""
    relevant = _relevant(judgements)
    return len(relevant.intersection(ranking[:cut])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], judgements: Mapping[str, int], cut: int) -> float:
    """Return 1 / rank of the first relevant document, or 0 where none is among the first `cut`."""
    relevant = _relevant(judgements)
    ranks = (rank for rank, id_ in enumerate(ranking[:cut], start=1) if id_ in relevant)
    return 1 / next(ranks, float("inf"))


def _discounted_gain(grades: Sequence[int]) -> float:
    return sum(max(grade, 0) / log2(rank + 1) for rank, grade in enumerate(grades, start=1))


def _relevant(judgements: Mapping[str, int]) -> set[str]:
    return {id_ for id_, grade in judgements.items() if grade > 0}
