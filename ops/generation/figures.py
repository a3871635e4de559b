"""What two readings of a model server say together: how it stands, and how fast it goes."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from ops.generation.names import COUNTER, FIGURES
from ops.generation.reading import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFigures:
    """A model server over the `span_s` before `at_s`. What it does not tell is None.

    `running` and `waiting` are requests now, `kv_cache_usage` is a share of 1. Rates are per second over the span.
    `prefix_hit_rate` is the share of the prompts' tokens that were found in its cache, None where none were looked up.
    `restarted` says that its counters began anew in between: what it did before that is in no rate.
    """

    at_s: float
    span_s: float
    engine: str
    restarted: bool
    running: float | None = None
    waiting: float | None = None
    kv_cache_usage: float | None = None
    preemptions_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    generation_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    kv_evictions_per_s: float | None = None
    rejections_per_s: float | None = None
    prefix_hit_rate: float | None = None

    @property
    def in_progress(self) -> float | None:
        """Requests that the server has: those that run and those that wait."""
        return None if self.running is None else self.running + (self.waiting or 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, less the clock's own time."""
        return {name: value for name, value in asdict(self).items() if name != "at_s"}


def between(before: Reading, after: Reading) -> EngineFigures:
    """Return what two readings say, of which `after` is the later one."""
    restarted = any(_counter(after, name) < _counter(before, name) for name in _counted(before))
    grown = _Growth(before, after, restarted)
    return EngineFigures(
        at_s=after.at_s,
        span_s=after.at_s - before.at_s,
        engine=after.engine,
        restarted=restarted,
        running=after.values.get("running"),
        waiting=after.values.get("waiting"),
        kv_cache_usage=after.values.get("kv_cache_usage"),
        preemptions_per_s=grown.per_s("preemptions"),
        prompt_tokens_per_s=grown.per_s("prompt_tokens"),
        generation_tokens_per_s=grown.per_s("generation_tokens"),
        requests_per_s=grown.finished_per_s(),
        kv_evictions_per_s=grown.per_s("kv_evictions"),
        rejections_per_s=grown.per_s("rejections"),
        prefix_hit_rate=grown.hit_rate(),
    )


def intervals(readings: Sequence[Reading]) -> Iterator[EngineFigures]:
    """Give the figures of each two readings that follow one another."""
    return (between(before, after) for before, after in pairwise(readings))


@dataclass(frozen=True, slots=True)
class _Growth:
    """By how much counters grew; after a restart they have grown from nothing."""

    before: Reading
    after: Reading
    restarted: bool

    def of(self, name: str) -> float | None:
        if name not in self.after.values:
            return None
        return self.after.values[name] - (0.0 if self.restarted else _counter(self.before, name))

    def per_s(self, name: str) -> float | None:
        return self._rate(self.of(name))

    def finished_per_s(self) -> float | None:
        if not self.after.finished:
            return None
        before = 0.0 if self.restarted else sum(self.before.finished.values())
        return self._rate(sum(self.after.finished.values()) - before)

    def hit_rate(self) -> float | None:
        hits, queries, misses = self.of("prefix_hits"), self.of("prefix_queries"), self.of("prefix_misses")
        if hits is None:
            return None
        looked_up = queries if queries is not None else hits + (misses or 0.0)
        return hits / looked_up if looked_up > 0 else None

    def _rate(self, grown: float | None) -> float | None:
        span_s = self.after.at_s - self.before.at_s
        return None if grown is None or span_s <= 0 else max(grown, 0.0) / span_s


def _counted(reading: Reading) -> Iterator[str]:
    return (name for name in reading.values if FIGURES[name].kind == COUNTER)


def _counter(reading: Reading, name: str) -> float:
    return reading.values.get(name, 0.0)
