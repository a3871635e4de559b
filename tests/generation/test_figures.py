"""What two readings say together."""

import pytest

from ops.generation.figures import EngineFigures, between, intervals
from ops.generation.reading import Reading, read
from tests.generation.engine_server import page


def figures(before: dict[str, float], after: dict[str, float], span_s: float = 10.0) -> EngineFigures:
    """Return what vLLM did between two pages with these values."""
    return between(read(page(**before), 100.0), read(page(**after), 100.0 + span_s))


def test_rates_are_per_second() -> None:
    """Counters are divided by the time between the readings; gauges are those of the later one."""
    found = figures(
        {"num_requests_running": 9},
        {"num_requests_running": 4, "num_requests_waiting": 1, "kv_cache_usage_perc": 0.5,
         "generation_tokens_total": 60 + 500, "prompt_tokens_total": 183 + 2_000, "num_preemptions_total": 5,
         "prefix_cache_queries_total": 183 + 1_000, "prefix_cache_hits_total": 250,
         'request_success_total': 30},
    )  # fmt: skip
    assert (found.running, found.waiting, found.kv_cache_usage, found.in_progress) == (4, 1, 0.5, 5)
    assert (found.generation_tokens_per_s, found.prompt_tokens_per_s, found.preemptions_per_s) == (50, 200, 0.5)
    assert (found.requests_per_s, found.prefix_hit_rate, found.restarted) == (3, 0.25, False)


def test_a_server_that_was_started_anew() -> None:
    """Counters that fell began at zero: what they show was done since then, and nothing is negative."""
    found = figures(
        {"generation_tokens_total": 1_000_000, "prompt_tokens_total": 10, "prefix_cache_queries_total": 9_000,
         "prefix_cache_hits_total": 8_000},
        {"generation_tokens_total": 300, "prompt_tokens_total": 20, "prefix_cache_queries_total": 40,
         "prefix_cache_hits_total": 10},
    )  # fmt: skip
    assert found.restarted
    assert (found.generation_tokens_per_s, found.prompt_tokens_per_s, found.prefix_hit_rate) == (30, 2, 0.25)


def test_no_rate_where_nothing_is_told() -> None:
    """What a server does not count, and a share of nothing, are None."""
    bare = Reading(at_s=0, engine="openvino", values={"running": 1.0}, finished={})
    found = between(bare, Reading(at_s=5, engine="openvino", values={"running": 2.0}, finished={}))
    assert (found.running, found.in_progress) == (2, 2)
    assert {found.generation_tokens_per_s, found.kv_cache_usage, found.requests_per_s, found.waiting} == {None}
    assert figures({}, {}).prefix_hit_rate is None


def test_hits_and_misses_are_a_rate_as_well() -> None:
    """TensorRT-LLM does not count what was looked up, but what was not there."""
    values = ({"prefix_hits": 10.0, "prefix_misses": 10.0}, {"prefix_hits": 40.0, "prefix_misses": 20.0})
    readings = [Reading(at_s=at, engine="tensorrt_llm", values=one, finished={}) for at, one in enumerate(values)]
    (found,) = intervals(readings)
    assert found.prefix_hit_rate == pytest.approx(0.75)


def test_two_readings_at_once_have_no_rate() -> None:
    """Where no time passed, nothing is divided by it."""
    assert figures({}, {"generation_tokens_total": 100}, span_s=0).generation_tokens_per_s is None
