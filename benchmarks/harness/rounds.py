"""Rounds in which workers take turns, so that what the machine does meanwhile meets all of them."""

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from benchmarks.harness.datasets import DataSet
from benchmarks.harness.truth import TOP_K, Truth, recalls
from benchmarks.harness.workers import WorkerFailed, WorkerProcess
from ops.measures import percentiles

BLOCK_QUERIES = 50
Json = dict[str, Any]
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Search = Callable[[WorkerProcess, list[int]], Json]


@dataclass
class Measured:
    """What one worker did: milliseconds of each call by round, and the ids that each query found."""

    ms: list[list[float]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    found: list[list[str]] = field(default_factory=list)

    def p50s(self) -> list[float]:
        """The median of each round, in milliseconds."""
        return [percentiles(of_round, (50,))["p50"] for of_round in self.ms]

    def described(self, queries_per_call: int = 1) -> Json:
        """Medians over the rounds with lowest and highest, and how many queries a second that is."""
        p50s, p99s = self.p50s(), [percentiles(of_round, (99,))["p99"] for of_round in self.ms]
        rates = [queries_per_call * len(of_round) / sum(of_round) * 1e3 for of_round in self.ms]
        return {
            "p50_ms": spread(p50s),
            "p99_ms": spread(p99s),
            "queries_per_s": spread(rates),
            "rounds": len(self.ms),
            "queries": len(self.positions),
        }

    def judged(self, data: DataSet, truth: Truth) -> Json:
        """Recall, and answers with fewer hits than there are to find."""
        found = recalls(data, truth, self.positions, self.found)
        wanted = min(TOP_K, truth.top_k)
        return {
            "recall": round(statistics.mean(found), 4),
            "short_answers": sum(len(set(ids)) < wanted for ids in self.found),
        }


def spread(values: Sequence[float]) -> Json:
    """The median, with the lowest and the highest."""
    return {
        "median": round(statistics.median(values), 4),
        "lowest": round(min(values), 4),
        "highest": round(max(values), 4),
    }


def ratio(ours: Measured, theirs: Measured) -> Json:
    """How many times as long ours took at p50, round by round."""
    return spread([a / b for a, b in zip(ours.p50s(), theirs.p50s(), strict=True)])


class Turns(Generic[K]):
    """Workers that answer the same queries in turn, block by block. One that fails takes no part any more."""

    def __init__(
        self,
        workers: Mapping[K, WorkerProcess],
        positions: Sequence[int],
        failures: list[str],
        block_queries: int = BLOCK_QUERIES,
    ) -> None:
        self.workers = dict(workers)
        self._failures = failures
        self._blocks = [
            list(positions[start : start + block_queries]) for start in range(0, len(positions), block_queries)
        ]

    def warm(self, names: Iterable[K], search: Search) -> None:
        """Let each answer a block that is not measured."""
        for name in names:
            self._ask(name, self._blocks[0], search)

    def round(self, measured: Mapping[K, Measured], search: Search, number: int) -> None:
        """Let everybody answer every block; who begins changes with each. What fails is told of in `failures`."""
        for one in measured.values():
            one.ms.append([])
        for place, block in enumerate(self._blocks):
            for name in turned(list(measured), number + place):
                if (answer := self._ask(name, block, search)) is not None:
                    measured[name].ms[-1] += answer["ms"]
                    measured[name].positions += block
                    measured[name].found += answer["ids"]

    def whole(self, measured: dict[K, Measured]) -> dict[K, Measured]:
        """Leave out those that failed: half a measurement is none."""
        return {name: one for name, one in measured.items() if name in self.workers}

    def _ask(self, name: K, block: list[int], search: Search) -> Json | None:
        if name not in self.workers:
            return None
        try:
            return search(self.workers[name], block)
        except WorkerFailed as failure:
            self._failures.append(str(failure))
            del self.workers[name]
            return None


def interleaved(
    workers: Mapping[K, WorkerProcess],
    positions: Sequence[int],
    rounds: int,
    search: Search,
    failures: list[str],
    block_queries: int = BLOCK_QUERIES,
) -> dict[K, Measured]:
    """Measure all workers in rounds, after one block that is not measured."""
    turns = Turns(workers, positions, failures, block_queries)
    measured = {name: Measured() for name in workers}
    turns.warm(measured, search)
    for number in range(rounds):
        turns.round(measured, search, number)
    return turns.whole(measured)


def swept(
    workers: Mapping[K, WorkerProcess],
    positions: Sequence[int],
    rounds: int,
    efforts: Mapping[int, Sequence[K]],
    failures: list[str],
) -> dict[int, dict[K, Measured]]:
    """Measure efforts in turn, too: in every round each, with the workers that are named for it.

    A new effort may mean a new session, so each begins with a block that is not measured.
    """
    turns = Turns(workers, positions, failures)
    measured = {effort: {name: Measured() for name in names} for effort, names in efforts.items()}
    for number in range(rounds):
        for effort in turned(list(efforts), number):

            def search(worker: WorkerProcess, block: list[int], effort: int = effort) -> Json:
                return worker.search(block, effort, None)

            turns.warm(measured[effort], search)
            turns.round(measured[effort], search, number)
    return {effort: turns.whole(of_effort) for effort, of_effort in measured.items()}


def turned(names: list[T], by: int) -> list[T]:
    """The same names, beginning with another: who comes after whom must not be always the same."""
    return names[by % len(names) :] + names[: by % len(names)] if names else []
