"""Sets of ids as runs, beside Python's own sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.backup.runs import Runs

SETS = st.sets(st.integers(0, 60))


def _runs(ids: set[int]) -> Runs:
    return Runs.from_ids(np.array(sorted(ids), np.int64))


def _ids(runs: Runs) -> set[int]:
    return {id_ for first, last in zip(runs.first, runs.last, strict=True) for id_ in range(first, last + 1)}


@given(SETS, SETS)
def test_runs_behave_as_sets(ours: set[int], theirs: set[int]) -> None:
    """Union, difference, membership, count and equality are those of the sets, and results are runs again."""
    left, right = _runs(ours), _runs(theirs)
    assert _ids(left) == ours
    assert left.count == len(ours)
    union, difference = left.union(right), left.difference(right)
    assert (_ids(union), _ids(difference)) == (ours | theirs, ours - theirs)
    assert union == _runs(ours | theirs)
    assert difference == Runs.from_arrays(difference.first, difference.last)
    every = np.arange(62)
    assert left.contains(every).tolist() == [id_ in ours for id_ in range(62)]
    assert (left == right) is (ours == theirs)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ([5], [4]),
        ([1, 3], [2, 9]),
        ([1, 2], [5, 9]),
        ([9, 1], [9, 1]),
        ([-1], [4]),
        ([1], []),
        ([0, 5], [2**63 - 1, 6]),
    ],
)
def test_what_is_no_set_of_runs_is_refused(first: list[int], last: list[int]) -> None:
    """Runs that end before they begin, overlap, touch, go backwards or leave the range of ids are not read."""
    with pytest.raises(ValueError, match="found"):
        Runs.from_arrays(np.array(first, np.int64), np.array(last, np.int64))
