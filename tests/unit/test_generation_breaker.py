"""The circuit breaker, by a clock that the test turns."""

from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backends.errors import GeneratorUnavailable
from retrieval.generation.breaker import Attempt, Breaker

FAILURES = 3
OPEN_S = 10.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker("host:1", FAILURES, OPEN_S, clock)
    for _ in range(FAILURES):
        with breaker.attempt() as attempt:
            attempt.failed()
    return breaker


def test_a_success_between_failures_keeps_it_closed() -> None:
    """Only failures in a row count."""
    breaker = Breaker("host:1", FAILURES, OPEN_S)
    for _ in range(5):
        for _ in range(FAILURES - 1):
            with breaker.attempt() as attempt:
                attempt.failed()
        with breaker.attempt() as attempt:
            attempt.succeeded()
    assert (breaker.state, breaker.failed, breaker.opened) == ("closed", 10, 0)


def test_an_answer_that_breaks_off_is_a_failure() -> None:
    """A server whose every stream begins and breaks off is ailing."""
    breaker = Breaker("host:1", FAILURES, OPEN_S)
    for _ in range(FAILURES):
        with breaker.attempt() as attempt:
            attempt.answered()
            attempt.failed()
    assert breaker.state == "open"


def test_one_probe_at_a_time() -> None:
    """While it is under way all others are refused; one that tells nothing lets another try."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += OPEN_S
    for _ in range(2):
        with breaker.attempt():
            assert breaker.state == "half_open"
            with pytest.raises(GeneratorUnavailable, match="tried again now, with one request"), breaker.attempt():
                pytest.fail("two probes")
    with breaker.attempt() as attempt:
        attempt.failed()
    assert (breaker.state, breaker.opened, breaker.refused) == ("open", 2, 2)


def test_a_refusal_says_when_it_is_tried_again() -> None:
    """In seconds, as its text does; a second where a probe is under way."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += 4
    with pytest.raises(GeneratorUnavailable, match=r"in 6\.0 s") as refused, breaker.attempt():
        pass
    assert refused.value.retry_after_s == 6
    clock.now += 6
    with breaker.attempt(), pytest.raises(GeneratorUnavailable) as refused, breaker.attempt():
        pass
    assert refused.value.retry_after_s == 1


def test_an_answered_probe_lets_all_in_and_its_breaking_off_keeps_all_out() -> None:
    """A long answer does not hold the others up."""
    clock = Clock()
    breaker = opened(clock)
    clock.now += OPEN_S
    with breaker.attempt() as probe:
        probe.answered()
        assert breaker.state == "closed"
        with breaker.attempt():
            pass
        probe.failed()
    assert breaker.state == "open"


def test_late_failures_do_not_keep_it_open() -> None:
    """What began before it opened says nothing of the server now."""
    clock = Clock()
    breaker = Breaker("host:1", FAILURES, OPEN_S, clock)
    with ExitStack() as under_way:
        attempts = [under_way.enter_context(breaker.attempt()) for _ in range(2 * FAILURES)]
        for attempt in attempts:
            attempt.failed()
            clock.now += 1
    clock.now = 100 + FAILURES - 1 + OPEN_S
    assert (breaker.state, breaker.opened) == ("half_open", 1)


class Machine(RuleBasedStateMachine):
    """Whatever happens in whatever order, it lets requests through again when its time has come."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker("host:1", FAILURES, OPEN_S, self.clock)
        self.under_way: list[tuple[ExitStack, Attempt]] = []

    @rule()
    def begin(self) -> None:
        stack = ExitStack()
        try:
            self.under_way.append((stack, stack.enter_context(self.breaker.attempt())))
        except GeneratorUnavailable:
            assert self.breaker.state != "closed"

    @precondition(lambda self: self.under_way)
    @rule(how=st.sampled_from(["failed", "succeeded", "nothing"]), data=st.data())
    def end(self, how: str, data: st.DataObject) -> None:
        stack, attempt = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        with stack:
            if how != "nothing":
                getattr(attempt, how)()
        if how == "succeeded":
            assert self.breaker.state == "closed"

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.under_way[data.draw(st.integers(0, len(self.under_way) - 1))][1].answered()

    @rule(seconds=st.floats(0, 2 * OPEN_S))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def opens_only_after_failures(self) -> None:
        assert self.breaker.opened * 1 <= self.breaker.failed
        if self.breaker.failed < FAILURES:
            assert self.breaker.state == "closed"

    def teardown(self) -> None:
        for stack, _ in self.under_way:
            stack.close()
        self.clock.now += OPEN_S
        with self.breaker.attempt() as attempt:
            attempt.succeeded()
        assert self.breaker.state == "closed"


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
