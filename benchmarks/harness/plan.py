"""How much is measured: a small run of about five minutes, and a full one of hours."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.workers import Stage, WorkerProcess
from benchmarks.peers import environments

OURS = ("ragstone", "ragstone_faiss")
LIMITS = ("raw_tuned", "raw_psycopg", "plain_faiss", "faiss_texts")
DEFAULT_EFFORT = 40


@dataclass(frozen=True)
class Sizes:
    """What a run of one size measures; rounds, queries and rows count, efforts are ef_search."""

    name: str
    rows: int
    dimension: int
    queries: int
    rounds: int
    efforts: tuple[int, ...]
    ingest_rows: int
    ingest_rounds: int
    growth_rows: tuple[int, ...]
    growth_dimension: int
    http_rounds: int
    http_round_s: float


SMALL = Sizes(
    name="small",
    rows=10_000,
    dimension=384,
    queries=200,
    rounds=3,
    efforts=(10, 40, 160),
    ingest_rows=6_000,
    ingest_rounds=1,
    growth_rows=(5_000, 20_000),
    growth_dimension=128,
    http_rounds=1,
    http_round_s=1.0,
)
FULL = Sizes(
    name="full",
    rows=100_000,
    dimension=384,
    queries=1_000,
    rounds=5,
    efforts=(10, 20, 40, 80, 160, 320),
    ingest_rows=20_000,
    ingest_rounds=3,
    growth_rows=(10_000, 100_000, 1_000_000),
    growth_dimension=128,
    http_rounds=5,
    http_round_s=5.0,
)
TINY = Sizes(
    name="tiny",
    rows=5_000,
    dimension=64,
    queries=60,
    rounds=2,
    efforts=(10, 40),
    ingest_rows=1_000,
    ingest_rounds=1,
    growth_rows=(5_000, 10_000),
    growth_dimension=32,
    http_rounds=1,
    http_round_s=1.0,
)
REAL_ROWS = 30_000
"""Of a real set at most so many: the size that targets are set for."""
SIZES = {sizes.name: sizes for sizes in (TINY, SMALL, FULL)}


@dataclass
class Bench:
    """One run: its sizes, its stage, who takes part, and what failed so far."""

    sizes: Sizes
    stage: Stage
    seed: int
    others: tuple[str, ...]
    folder: Path
    failures: list[str] = field(default_factory=list)

    def everybody(self, *more: str) -> list[str]:
        """Our own, the limits, those named, and the peers that are installed."""
        return [*OURS, *LIMITS, *more, *self.others]


def installed() -> tuple[str, ...]:
    """The peers whose environments are there."""
    return tuple(name for name in environments.known() if environments.interpreter(name) is not None)


def filtering(workers: dict[str, WorkerProcess], names: Sequence[str] | None = None) -> dict[str, WorkerProcess]:
    """Those of the workers that know filters."""
    return {
        name: worker
        for name, worker in workers.items()
        if worker.opened["has_filters"] and (names is None or name in names)
    }
