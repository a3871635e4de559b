"""What slows down, told from what only changes."""

import random
from collections.abc import Callable

import pytest

from ops.generation.engine import EngineWatch
from ops.generation.reading import Reading
from ops.generation.trends import BASELINE_S, SUSTAINED_S, FirstToken, Growth, steepest, throughput
from ops.latency.lengths import INPUT_LENGTHS, input_length
from retrieval.generation.address import ServerAddress
from retrieval.generation.metrics_page import MetricsPage
from tests.generation.engine_server import Clock

EVERY_S = 10.0
Load = Callable[[float], tuple[float, float]]
"""Tokens per second and requests in progress, so many seconds before now."""


def watched(load: Load, span_s: float = SUSTAINED_S + BASELINE_S) -> EngineWatch:
    """Return a watch whose readings of the last `span_s` are those of a server under this load."""
    clock = Clock()
    watch = EngineWatch(MetricsPage(ServerAddress("http://127.0.0.1:9", None)), clock)
    tokens, steps = 0.0, int(span_s / EVERY_S)
    for step in range(steps, -1, -1):
        tokens_per_s, in_progress = load(step * EVERY_S)
        tokens += tokens_per_s * EVERY_S
        values = {"running": in_progress, "waiting": 0.0, "generation_tokens": tokens}
        watch._add(Reading(at_s=clock.now_s - step * EVERY_S, engine="vllm", values=values, finished={}))
    return watch


def late(seconds_ago: float) -> bool:
    return seconds_ago < SUSTAINED_S


def test_fewer_tokens_for_as_many_requests_are_a_fall() -> None:
    """The server is slower: as many requests are in progress, and half of the tokens come."""
    found = throughput(watched(lambda ago: (500 if late(ago) else 1_000, 8)))
    assert found is not None
    assert found.fell
    assert (found.share, found.tokens_per_s, found.usual_tokens_per_s) == pytest.approx((0.5, 500, 1_000))


def test_requests_that_pile_up_are_no_excuse() -> None:
    """Where callers come all the same, a slow server has more requests in progress than usually."""
    found = throughput(watched(lambda ago: (500, 30) if late(ago) else (1_000, 8)))
    assert found is not None
    assert found.fell


def test_fewer_tokens_for_fewer_requests_are_none() -> None:
    """The evening comes, and fewer people ask."""
    found = throughput(watched(lambda ago: (500, 4) if late(ago) else (1_000, 8)))
    assert found is not None
    assert not found.fell


def test_a_steady_server_with_bursts_does_not_fall() -> None:
    """What varies by half from reading to reading is no trend."""
    generator = random.Random(7)
    for _ in range(20):
        found = throughput(watched(lambda _: (1_000 * generator.uniform(0.5, 1.5), generator.randint(5, 12))))
        assert found is not None
        assert not found.fell


def test_a_short_dip_is_no_fall() -> None:
    """A minute of nothing, as when a long prompt is read, is not what lasts."""
    found = throughput(watched(lambda ago: (0 if ago < 60 else 1_000, 8)))
    assert found is not None
    assert not found.fell


@pytest.mark.parametrize(
    ("load", "span_s"),
    [
        (lambda _: (1_000.0, 8.0), SUSTAINED_S + 300.0),  # ten minutes of baseline are needed
        (lambda ago: (100.0 if late(ago) else 200.0, 0.2), SUSTAINED_S + BASELINE_S),  # mostly idle
        (lambda ago: (0.0, 8.0), SUSTAINED_S + BASELINE_S),  # nothing was ever generated
    ],
)
def test_too_little_is_not_compared(load: Load, span_s: float) -> None:
    """No verdict on a server just started, one that idles, and one that never said anything."""
    assert throughput(watched(load, span_s)) is None


def test_a_restart_is_not_a_fall() -> None:
    """The interval in which counters began anew is left out."""
    watch = watched(lambda _: (1_000, 8))
    last = watch.readings[-1]
    watch.clock.now_s += EVERY_S  # type: ignore[attr-defined]  # the test's own clock
    watch._add(Reading(at_s=watch.clock(), engine="vllm", values=last.values | {"generation_tokens": 5.0}, finished={}))
    found = throughput(watch)
    assert found is not None
    assert found.tokens_per_s == pytest.approx(1_000)


def first_tokens(seconds: Callable[[int], float], *lengths: int, count: int = 20) -> list[FirstToken]:
    """Return answers to prompts of these lengths."""
    return [FirstToken(0, tokens, seconds(tokens)) for tokens in lengths for _ in range(count)]


def test_time_that_grows_as_the_prompt_is_no_finding() -> None:
    """Twice the prompt, twice the time, or less where something is the same for all."""
    assert steepest(first_tokens(lambda tokens: tokens / 1_000, 400, 1_000, 4_000, 30_000)) == Growth(
        400, 1_000, 0.4, 1
    )
    found = steepest(first_tokens(lambda tokens: 0.5 + tokens / 10_000, 400, 4_000))
    assert found is not None
    assert found.factor < 1


def test_time_that_grows_faster_than_the_prompt() -> None:
    """The steepest step from one length to the next is told, with both ends of it."""
    found = steepest(first_tokens(lambda tokens: tokens / 1_000 * (3 if tokens > 8_192 else 1), 400, 4_000, 12_000))
    assert found == Growth(4_000, 12_000, 4.0, 36.0)
    assert found.factor == pytest.approx(3)


def test_a_few_slow_answers_are_not_the_median() -> None:
    """One in four that took long does not make a finding, nor does a class with few answers."""
    usual = first_tokens(lambda tokens: tokens / 1_000, 400, 4_000, count=30)
    slow = first_tokens(lambda _: 60.0, 4_000, count=9)
    few = first_tokens(lambda _: 500.0, 30_000, count=19)
    found = steepest(usual + slow + few)
    assert found is not None
    assert found.factor == pytest.approx(1)


def test_lengths_that_are_nearly_the_same_are_not_compared() -> None:
    """500 tokens and 520 are in two classes: what lies between their times is no growth with length."""
    assert steepest(first_tokens(lambda tokens: 1 if tokens < 512 else 2, 500, 520)) is None
    assert steepest([]) is None


@pytest.mark.parametrize(
    ("tokens", "name"),
    [(0, "0-512"), (512, "0-512"), (513, "512-1k"), (8_192, "4k-8k"), (32_768, "16k-32k"), (10**9, "32k+")],
)
def test_classes_of_prompts(tokens: int, name: str) -> None:
    """A class holds its upper bound, and every length has one."""
    assert input_length(tokens) == name
    assert name in INPUT_LENGTHS
