"""Counts of latencies in log-linear buckets, which add up: those of minutes, of processes, of collections.

Each power of two milliseconds is split into 64 equal parts, as HdrHistogram does (http://hdrhistogram.org), so that a
bucket is at most 1/64 (1.6 %) as wide as the latencies in it.
"""

import math
import threading
from collections.abc import Iterable
from decimal import Decimal

PARTS = 64
FIRST_POWER = -10
LAST_POWER = 20
LEAST_MS = 2.0**FIRST_POWER
"""About 1 us; whatever is quicker is counted in the first bucket."""
MOST_MS = 2.0**LAST_POWER
"""About 17 minutes; whatever is slower is counted in the last bucket."""
LAST_BUCKET = (LAST_POWER - FIRST_POWER) * PARTS + 1


def bucket_of(latency_ms: float) -> int:
    """Return the number of the bucket in which a latency is counted.

    Bucket 0 goes up to LEAST_MS, LAST_BUCKET has what is above MOST_MS. Like those of Prometheus, a bucket holds its
    upper bound and not its lower one.
    """
    if latency_ms <= LEAST_MS:
        return 0
    if latency_ms > MOST_MS:
        return LAST_BUCKET
    fraction, power = math.frexp(latency_ms)  # latency = fraction * 2 ** power, fraction in [0.5, 1)
    return (power - 1 - FIRST_POWER) * PARTS + math.ceil((2 * fraction - 1) * PARTS)


def upper_ms(bucket: int) -> float:
    """Return the greatest latency that a bucket holds; it is the bound below the next bucket."""
    if bucket >= LAST_BUCKET:
        return math.inf
    power, part = divmod(bucket, PARTS)
    return math.ldexp(1 + part / PARTS, power + FIRST_POWER)


def nearest_rank(percent: float, count: int) -> int:
    """Return the rank, from 1, of the sample that is the percentile of so many: the least with enough at or below."""
    return max(1, math.ceil(Decimal(str(percent)) * count / 100))


class Histogram:
    """Latencies, counted. Safe to use from any thread. `sum_ms` and `max_ms` are exact, 0 where there are none."""

    __slots__ = ("_counts", "_lock", "max_ms", "sum_ms")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}
        self.sum_ms = 0.0
        self.max_ms = 0.0

    @classmethod
    def of(cls, buckets: Iterable[int], counts: Iterable[int], sum_ms: float, max_ms: float) -> "Histogram":
        """Return a histogram from its sparse form; a bucket that comes twice is added up."""
        made = cls()
        made._include(zip(buckets, counts, strict=True), sum_ms, max_ms)
        return made

    def add(self, latency_ms: float) -> None:
        """Count one latency, in milliseconds, 0 or more."""
        bucket = bucket_of(latency_ms)
        with self._lock:
            self._counts[bucket] = self._counts.get(bucket, 0) + 1
            self.sum_ms += latency_ms
            if latency_ms > self.max_ms:
                self.max_ms = latency_ms

    def merge(self, other: "Histogram") -> None:
        """Count everything that another has counted."""
        with other._lock:
            counts, sum_ms, max_ms = list(other._counts.items()), other.sum_ms, other.max_ms
        self._include(counts, sum_ms, max_ms)

    @property
    def count(self) -> int:
        """How many latencies were counted."""
        with self._lock:
            return sum(self._counts.values())

    def sparse(self) -> tuple[list[int], list[int]]:
        """Return the buckets that are not empty, ascending, and how many latencies each holds."""
        with self._lock:
            pairs = sorted(self._counts.items())
        return [bucket for bucket, _ in pairs], [count for _, count in pairs]

    def percentile(self, percent: float) -> float:
        """Return about the latency in milliseconds that `percent` (0 to 100) of all do not exceed.

        The middle of the bucket that holds the sample of nearest rank, so at most half a bucket from it; never above
        the greatest, which is exact. Raises ValueError where nothing was counted.
        """
        buckets, counts = self.sparse()
        left = nearest_rank(percent, sum(counts))
        for bucket, count in zip(buckets, counts, strict=True):
            left -= count
            if left <= 0:
                last = bucket == buckets[-1]
                return self.max_ms if last and left == 0 else min(_middle_ms(bucket), self.max_ms)
        raise ValueError("nothing was counted: a percentile needs at least one latency")

    def counts_up_to(self, bounds_ms: Iterable[float]) -> list[int]:
        """Return for each bound, ascending, how many latencies are at or below it; exact for bounds of buckets."""
        buckets, counts = self.sparse()
        found, position, total = [], 0, 0
        for bound_ms in bounds_ms:
            last = bucket_of(bound_ms)
            while position < len(buckets) and buckets[position] <= last:
                total += counts[position]
                position += 1
            found.append(total)
        return found

    def _include(self, counts: Iterable[tuple[int, int]], sum_ms: float, max_ms: float) -> None:
        with self._lock:
            for bucket, count in counts:
                self._counts[bucket] = self._counts.get(bucket, 0) + count
            self.sum_ms += sum_ms
            self.max_ms = max(self.max_ms, max_ms)


def _middle_ms(bucket: int) -> float:
    lower_ms = upper_ms(bucket - 1) if bucket else 0.0
    return (lower_ms + upper_ms(bucket)) / 2
