"""How many threads a search of the FAISS index takes: as many as pay, and its share of the cores."""

from collections.abc import Iterator

import pytest

from backends.faiss import sharing
from backends.faiss.library import faiss
from backends.faiss.sharing import LONGEST_PAUSE, Sharing

CORES = 4
QUERY_S = 1e-3
"""In one thread."""


class _Clock:
    """Stands still unless told; the thread's own time and the wall's are the same."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def thread_time(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def cores() -> Iterator[None]:
    """What FAISS takes for the number of cores, for this thread."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(CORES)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(sharing, "time", made)
    return made


@pytest.fixture
def shared(clock: _Clock) -> Sharing:
    """One that knows what a query takes."""
    made = Sharing()
    assert _searched(made, clock, 32, QUERY_S * 32) == 1
    return made


def test_the_first_batch_shows_what_a_query_takes(shared: Sharing, clock: _Clock) -> None:
    """From then on a batch has as many threads as there are cores, and one query never more than one."""
    assert _searched(shared, clock, 32, QUERY_S * 8) == CORES
    assert _searched(shared, clock, 3, QUERY_S) == 3
    assert _searched(shared, clock, 1, QUERY_S) == 1


def test_too_little_to_share_stays_in_one_thread(clock: _Clock) -> None:
    """A member that had less than a quarter of a millisecond to do would cost more than it does."""
    shared = Sharing()
    assert _searched(shared, clock, 10, 10 * 30e-6) == 1
    assert _searched(shared, clock, 16, 16 * 30e-6) == 1
    assert _searched(shared, clock, 17, 17 * 30e-6) == 2


def test_teams_that_do_not_pay_are_tried_less_and_less(shared: Sharing, clock: _Clock) -> None:
    """Each failure in a row after the first doubles the pause, up to a limit; one success, and teams search again."""
    assert _searched(shared, clock, 32, QUERY_S * 8) == CORES
    pauses = [_pause(shared, clock) for _ in range(12)]
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 64, 128, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    assert _searched(shared, clock, 32, QUERY_S * 8) == CORES
    assert _searched(shared, clock, 32, QUERY_S * 8) == CORES
    assert _pause(shared, clock) == 0


def test_a_team_that_slept_is_not_judged(shared: Sharing, clock: _Clock) -> None:
    """After a pause the first team may be slow as it wakes; the second shows whether the machine is still busy."""
    slow_s = QUERY_S * 32 * 2
    asleep, first, second = (_searched(shared, clock, 32, slow_s) for _ in range(3))
    assert (asleep, first, second) == (CORES, CORES, CORES)
    assert _searched(shared, clock, 32, QUERY_S * 32) == 1
    assert _searched(shared, clock, 32, slow_s) == CORES
    assert [_searched(shared, clock, 32, QUERY_S * 8) for _ in range(3)] == [CORES] * 3
    assert _pause(shared, clock) == 0


def test_costlier_searches_are_no_failure_for_long(shared: Sharing, clock: _Clock) -> None:
    """With a higher effort a team takes longer than one thread took before; one search shows what it takes now."""
    dear_s = QUERY_S * 100
    assert [_searched(shared, clock, 32, dear_s * 8) for _ in range(3)] == [CORES] * 3
    assert _searched(shared, clock, 32, dear_s * 32) == 1
    assert [_searched(shared, clock, 32, dear_s * 8) for _ in range(3)] == [CORES] * 3


def test_searches_at_once_share_the_cores(shared: Sharing, clock: _Clock) -> None:
    """Two have half of them each; of many each has one. When they are done, the next has all."""
    threads: list[int] = []

    def search() -> None:
        threads.append(faiss.omp_get_max_threads())
        if len(threads) < 5:
            faiss.omp_set_num_threads(CORES)  # as the other thread that it would be in has it
            shared.search(32, search)
        clock.now_s += QUERY_S * 32

    shared.search(32, search)
    assert threads == [4, 2, 1, 1, 1]
    another = Sharing()
    assert [_searched(another, clock, 32, QUERY_S * 32) for _ in range(2)] == [1, CORES]


def test_a_search_that_fails_is_over(shared: Sharing, clock: _Clock) -> None:
    """It takes no cores from the next, and leaves the caller's threads as they were."""

    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        shared.search(32, broken)
    assert faiss.omp_get_max_threads() == CORES
    assert _searched(shared, clock, 32, QUERY_S * 8) == CORES


def _searched(shared: Sharing, clock: _Clock, queries: int, takes_s: float) -> int:
    """Search, and return in how many threads."""

    def search() -> int:
        clock.now_s += takes_s
        return int(faiss.omp_get_max_threads())

    return shared.search(queries, search)


def _pause(shared: Sharing, clock: _Clock) -> int:
    """Let a team fail, and return how many searches there are in one thread before the next team begins."""
    assert _searched(shared, clock, 32, QUERY_S * 32 * 2) == CORES
    pause = 0
    while shared._count(32, CORES) == 1:
        pause += 1
    return pause
