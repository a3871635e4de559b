"""What a sample of queries says about all of them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import InvalidInput
from ops.recall.statistics import monotone, queries_needed, summary

RECALLS = st.lists(st.integers(0, 10).map(lambda hits: hits / 10), min_size=2, max_size=40)


def test_mean_worst_and_bad_ones_by_hand() -> None:
    """Of twenty queries one found a half, one 0.7, one 0.8 and the others everything."""
    found = summary([1.0] * 17 + [0.5, 0.7, 0.8])
    assert (found.queries, found.mean) == (20, pytest.approx(0.95))
    assert found.below_08 == pytest.approx(0.1), "0.8 itself is not below 0.8"
    assert found.p5 == pytest.approx(0.69), "a twentieth of the way from the second worst back to the worst"


def test_one_query_says_nothing_and_none_is_refused() -> None:
    """The interval of one query is everything; of no query there is no summary, and no recall is above 1."""
    assert (summary([0.9]).low, summary([0.9]).high) == (0, 1)
    with pytest.raises(InvalidInput, match="values"):
        summary([])
    with pytest.raises(InvalidInput, match=r"recalls: found 0.5 to 1.5"):
        summary([0.5, 1.5])


@pytest.mark.parametrize("queries", [10, 30, 100, 400, 1_000])
def test_a_flawless_sample_follows_the_rule_of_three(queries: int) -> None:
    """Where every query found everything, about 3 in so many may still be bad: the interval is not of no width."""
    found = summary([1.0] * queries)
    assert found.low == pytest.approx(1 - 3 / (queries + 1), abs=1e-9)
    assert found.high == 1


def test_a_sample_with_a_flaw_is_never_trusted_more() -> None:
    """One query that missed a hit does not narrow what a flawless sample leaves open."""
    assert summary([1.0] * 99 + [0.9]).low <= summary([1.0] * 100).low


@given(RECALLS)
@settings(max_examples=30, deadline=None)
def test_an_interval_holds_the_mean_and_has_width(recalls: list[float]) -> None:
    """Whatever the recalls, also where all are equal: 0 <= low <= mean <= high <= 1, and low < high."""
    found = summary(recalls)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high
    assert summary(recalls) == found, "the same seed, the same interval"


def _hits(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.binomial(10, 0.98, count) / 10


def _lost(generator: np.random.Generator, count: int) -> np.ndarray:
    return (generator.random(count) > 0.01) * 1.0


def _mixed(generator: np.random.Generator, count: int) -> np.ndarray:
    bad = generator.random(count) < 0.05
    return np.where(bad, generator.binomial(10, 0.5, count), generator.binomial(10, 0.995, count)) / 10


@pytest.mark.parametrize("draw", [_hits, _lost, _mixed])
@pytest.mark.parametrize("queries", [20, 200])
def test_the_interval_covers_the_truth(draw, queries: int) -> None:
    """In 95 of 100 samples or more, also where 1 query in 100 finds nothing and most samples do not show it."""
    generator = np.random.default_rng(7)
    truth = draw(generator, 300_000).mean()
    covered = [
        found.low <= truth <= found.high for found in (summary(draw(generator, queries).tolist()) for _ in range(200))
    ]
    assert np.mean(covered) >= 0.95


def test_more_queries_say_more() -> None:
    """A hundred times the queries, about a tenth of the width."""
    few, many = (summary(_hits(np.random.default_rng(1), count).tolist()) for count in (100, 10_000))
    assert many.high - many.low < (few.high - few.low) / 5


@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 0.99, 0.999])
def test_so_many_queries_can_show_a_target(target: float) -> None:
    """With as many queries as are said to be needed, all of them flawless, the lower bound reaches the target."""
    needed = queries_needed(target)
    assert summary([1.0] * needed).low >= target
    assert summary([1.0] * (needed // 2)).low < target


@given(st.lists(st.floats(0, 1), max_size=20))
@settings(max_examples=50)
def test_a_curve_becomes_monotone(values: list[float]) -> None:
    """It never falls, keeps its sum, and one that never fell stays as it is."""
    found = monotone(values)
    assert len(found) == len(values)
    assert all(left <= right + 1e-12 for left, right in pairwise(found))
    assert sum(found) == pytest.approx(sum(values))
    assert monotone(sorted(values)) == sorted(values)


def test_monotone_by_hand() -> None:
    """0.9 and 0.7 belong together, and are 0.8 both."""
    assert monotone([0.5, 0.9, 0.7, 0.95]) == pytest.approx([0.5, 0.8, 0.8, 0.95])
