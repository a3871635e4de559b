"""Log-linear histograms: their percentiles are those of the raw samples, within the width of a bucket."""

import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.latency.exposition import BOUNDS_MS
from ops.latency.histogram import (
    LAST_BUCKET,
    LEAST_MS,
    MOST_MS,
    PARTS,
    Histogram,
    bucket_of,
    nearest_rank,
    upper_ms,
)
from tests.latency.watching import raw_percentile

LATENCIES = st.lists(st.floats(0, 2e6) | st.sampled_from([0.001, 1.0, 2.0, 500.0, *BOUNDS_MS]), min_size=1)
PERCENTS = st.sampled_from([0.1, 1, 50, 90, 95, 99, 99.9, 99.99, 100])


def counted(latencies_ms: list[float]) -> Histogram:
    """Return a histogram of these."""
    histogram = Histogram()
    for latency_ms in latencies_ms:
        histogram.add(latency_ms)
    return histogram


def assert_agrees(histogram: Histogram, latencies_ms: list[float], percent: float) -> None:
    """The percentile lies in the bucket of the raw samples' percentile."""
    true_ms, found_ms = raw_percentile(latencies_ms, percent), histogram.percentile(percent)
    assert bucket_of(found_ms) == bucket_of(true_ms)
    if LEAST_MS < true_ms <= MOST_MS:
        assert abs(found_ms - true_ms) <= true_ms / PARTS


@settings(max_examples=200, deadline=None)
@given(LATENCIES, PERCENTS)
def test_percentiles_agree_with_the_raw_samples(latencies_ms: list[float], percent: float) -> None:
    """A percentile is in the bucket of the raw sample of nearest rank, so within 1.6 % of it."""
    assert_agrees(counted(latencies_ms), latencies_ms, percent)


@settings(max_examples=100, deadline=None)
@given(LATENCIES, LATENCIES, PERCENTS)
def test_merged_percentiles_agree_too(here_ms: list[float], there_ms: list[float], percent: float) -> None:
    """Two histograms, one of them stored in between, give the percentiles of all their samples together."""
    merged, other = counted(here_ms), counted(there_ms)
    merged.merge(Histogram.of(*other.sparse(), other.sum_ms, other.max_ms))
    assert_agrees(merged, here_ms + there_ms, percent)
    assert merged.count == len(here_ms) + len(there_ms)
    assert merged.max_ms == max(here_ms + there_ms)
    assert merged.sum_ms == pytest.approx(math.fsum(here_ms + there_ms))


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1e9))
def test_a_bucket_holds_what_is_counted_in_it(latency_ms: float) -> None:
    """Every latency lies above the bound below its bucket and not above its own, at most 1/64 apart."""
    bucket = bucket_of(latency_ms)
    assert latency_ms <= upper_ms(bucket)
    if bucket > 0:
        lower_ms = upper_ms(bucket - 1)
        assert lower_ms < latency_ms
        if bucket < LAST_BUCKET:
            assert upper_ms(bucket) - lower_ms <= lower_ms / PARTS


def test_buckets_reach_from_a_microsecond_to_minutes() -> None:
    """Buckets are fine from 1 us to beyond 100 s, and nothing falls outside."""
    assert LEAST_MS <= 0.001
    assert MOST_MS >= 100_000
    assert bucket_of(0) == 0
    assert bucket_of(math.inf) == LAST_BUCKET
    assert [upper_ms(bucket) for bucket in range(LAST_BUCKET)] == sorted(
        {upper_ms(bucket) for bucket in range(LAST_BUCKET)}
    )


@settings(max_examples=100, deadline=None)
@given(LATENCIES)
def test_prometheus_counts_are_exact(latencies_ms: list[float]) -> None:
    """At each bound that Prometheus is shown, as many are counted as raw samples are at or below it."""
    assert counted(latencies_ms).counts_up_to(BOUNDS_MS) == [
        sum(latency_ms <= bound_ms for latency_ms in latencies_ms) for bound_ms in BOUNDS_MS
    ]
    assert all(upper_ms(bucket_of(bound_ms)) == bound_ms for bound_ms in BOUNDS_MS)


def test_nearest_rank_is_exact() -> None:
    """99.9 % of 1,000 samples is the 999th: no rounding error of binary fractions adds one."""
    assert [nearest_rank(percent, 1_000) for percent in (0, 0.1, 50, 99.9, 100)] == [1, 1, 500, 999, 1_000]
    assert nearest_rank(99.9, 1_001) == 1_000


def test_nothing_counted_has_no_percentile() -> None:
    """A percentile of nothing is refused, and not 0."""
    with pytest.raises(ValueError, match="nothing was counted"):
        Histogram().percentile(50)


def test_many_threads_lose_nothing() -> None:
    """What four threads add while another merges and reads is all counted."""
    histogram, copy = Histogram(), Histogram()
    adding = [threading.Thread(target=lambda: [histogram.add(value % 7) for value in range(5_000)]) for _ in range(4)]
    for thread in adding:
        thread.start()
    while any(thread.is_alive() for thread in adding):
        copy.merge(histogram)
        assert histogram.sparse()
    for thread in adding:
        thread.join()
    assert histogram.count == 20_000
    assert histogram.sum_ms == 4 * sum(value % 7 for value in range(5_000))
