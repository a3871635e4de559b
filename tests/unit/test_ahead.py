"""Work done a little ahead: in order, bounded, and stopped with its consumer."""

import threading
from contextlib import closing
from functools import partial

import pytest

from backends.corpus.ahead import DEPTH, ahead


def test_results_come_in_the_order_of_the_calls() -> None:
    """Also of more calls than are done ahead."""
    calls = [partial(int, number) for number in range(5 * DEPTH)]
    with closing(ahead(calls)) as results:
        assert list(results) == list(range(5 * DEPTH))


def test_only_so_many_are_done_ahead() -> None:
    """What was not taken yet is bounded, since it is large."""
    made: list[int] = []
    with closing(ahead(partial(made.append, number) for number in range(100))) as results:
        for taken in range(1, 20):
            next(results)
            assert len(made) <= taken + DEPTH + 1


def test_an_error_reaches_whoever_takes_the_result() -> None:
    """In its place, after the results before it."""

    def wrong() -> int:
        raise ValueError("wrong")

    with closing(ahead([lambda: 1, wrong])) as results:
        assert next(results) == 1
        with pytest.raises(ValueError, match="wrong"):
            next(results)


def test_nothing_runs_on_once_it_is_closed() -> None:
    """The call under way ends first; those that wait are not made, and the thread is gone."""
    before = threading.active_count()
    go_on, made = threading.Event(), []

    def slow(number: int) -> int:
        assert number == 0 or go_on.wait(10)
        made.append(number)
        return number

    with closing(ahead(partial(slow, number) for number in range(100))) as results:
        assert next(results) == 0
        threading.Timer(0.1, go_on.set).start()
    assert threading.active_count() <= before + 1  # the timer's own
    assert made in ([0], [0, 1])
