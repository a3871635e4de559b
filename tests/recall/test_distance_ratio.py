"""How much farther than the true ones the returned chunks are."""

import pytest

from ops.measures import distance_ratio


def test_the_true_ones_have_ratio_one() -> None:
    """What is as near as the truth has ratio 1, whatever its ids; nothing returned has nothing to compare."""
    assert distance_ratio([0.1, 0.2, 0.2], [0.1, 0.2, 0.2]) == 1
    assert distance_ratio([], [0.1, 0.2]) == 1


def test_the_mean_over_ranks() -> None:
    """Twice as far on one rank of two is half again as far."""
    assert distance_ratio([0.1, 0.4], [0.1, 0.2]) == pytest.approx(1.5)


def test_a_distance_of_nothing_has_no_ratio() -> None:
    """A chunk that lies on the query has no part in it, nor has a rank that nothing was returned for."""
    assert distance_ratio([0.3, 0.3], [0.0, 0.2, 0.5]) == pytest.approx(1.5)
