"""What a sample of queries says about the recall of all: its mean, its worst, and how far the mean can be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.errors import InvalidInput
from ops.measures import percentiles

RESAMPLES = 2_000
LOW = 0.8
"""A query below this recall counts as a bad one."""
Values = NDArray[np.float64]

_TWO_SIDED_95 = (2.5, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallSummary:
    """Recalls of so many queries: mean, 5th percentile, share of queries below 0.8, 95 % interval of the mean."""

    queries: int
    mean: float
    p5: float
    below_08: float
    low: float
    high: float


def summary(recalls: Sequence[float], seed: int = 0) -> RecallSummary:
    """Return what the recalls of single queries, each between 0 and 1, say together.

    The interval is Efron's percentile bootstrap over queries (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, chapter 13), since the hits of one query hang together. Alone it would be of no width where every query has
    the same recall, as most samples of a good index do, and too narrow where the bad ones are few. So one query that
    nobody asked joins the sample: for the lower bound it found nothing, for the upper one everything. Where all n
    recalls are 1 the lower bound is then about 1 - 3 / n: the rule of three (Hanley and Lippman-Hand, JAMA 1983,
    https://doi.org/10.1001/jama.1983.03330370053031). One query alone says nothing: its interval is 0 to 1.

    Raises InvalidInput where there are no recalls.
    """
    values = np.asarray(recalls, dtype=np.float64)
    p5 = percentiles(values.tolist(), (5,))["p5"]
    if values.min() < 0 or values.max() > 1:
        raise InvalidInput("recalls", f"found {values.min():g} to {values.max():g}; needed 0 to 1")
    low, high = interval(values, seed) if len(values) > 1 else (0.0, 1.0)
    mean = float(values.mean())
    return RecallSummary(
        queries=len(values), mean=mean, p5=p5, below_08=float((values < LOW).mean()), low=low, high=high
    )


def interval(values: Values, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values between 0 and 1, float64 [n]."""
    generator = np.random.default_rng(seed)
    low = np.percentile(resampled_means(np.append(values, 0.0), generator), _TWO_SIDED_95[0])
    high = np.percentile(resampled_means(np.append(values, 1.0), generator), _TWO_SIDED_95[1])
    mean = float(values.mean())
    return min(float(low), mean), max(float(high), mean)


def queries_needed(target: float) -> int:
    """Return how many queries it takes for a lower bound to reach a target below 1, where each finds everything."""
    return math.ceil(3 / max(1 - target, 1e-6))


def resampled_means(values: Values, generator: np.random.Generator) -> Values:
    """Return the means of RESAMPLES samples with replacement: how often each value is drawn is multinomial."""
    distinct, counts = np.unique(values, return_counts=True)
    drawn = generator.multinomial(len(values), counts / len(values), size=RESAMPLES)
    means: Values = drawn @ distinct / len(values)
    return means


def monotone(values: Sequence[float]) -> list[float]:
    """Return the nearest values, by squares, that never fall: more effort finds no less, the rest is chance.

    The pool-adjacent-violators algorithm (Barlow, Bartholomew, Bremner and Brunk, Statistical Inference under Order
    Restrictions, 1972).
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (left, lefts), (right, rights) = pools[-2:]
            pools[-2:] = [((left * lefts + right * rights) / (lefts + rights), lefts + rights)]
    return [value for value, count in pools for _ in range(count)]
