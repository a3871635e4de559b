"""The percentiles of each stage, by collection and backend, over a time."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

from backends.corpus.database import Database
from backends.corpus.latencies import latencies_since
from ops.latency.histogram import Histogram
from ops.latency.recording import Histograms, Key, LatencyRecorder
from ops.latency.stages import STAGES, STAGES_BY_LENGTH

PERCENTS = (50.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLatency:
    """How long one stage took. Percentiles, mean and maximum are of those that ended well, in milliseconds.

    They are None where none did. `outcomes` counts all, by "ok" or the error's code.
    """

    collection: str
    backend: str
    stage: str
    count: int
    outcomes: dict[str, int]
    errors: float
    percentiles_ms: dict[str, float] | None
    mean_ms: float | None
    max_ms: float | None

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return asdict(self)


def report(
    database: Database,
    since: datetime,
    collection: str | None = None,
    recorder: LatencyRecorder | None = None,
    *,
    by_length: bool = False,
) -> list[StageLatency]:
    """Return the latencies of all processes from then on, in the order of the stages.

    With `recorder`, also what that process has not given to the corpus yet. `by_length` gives STAGES_BY_LENGTH in
    place of the usual stages. Raises CorpusUnavailable.
    """
    kept = [
        (
            Key(row.collection, row.backend, row.stage, row.outcome),
            Histogram.of(row.buckets, row.counts, row.sum_ms, row.max_ms),
        )
        for row in latencies_since(database, since, collection)
    ]
    fresh: Histograms = {} if recorder is None else recorder.unwritten()
    found = [*kept, *((key, one) for key, one in fresh.items() if collection in (None, key.collection))]
    return summed((key, one) for key, one in found if (key.stage in STAGES_BY_LENGTH) is by_length)


def summed(histograms: Iterable[tuple[Key, Histogram]]) -> list[StageLatency]:
    """Put the outcomes of each collection, backend and stage together; a key may come more than once."""
    groups: dict[tuple[str, str, str], dict[str, Histogram]] = {}
    for key, histogram in histograms:
        outcomes = groups.setdefault((key.collection, key.backend, key.stage), {})
        outcomes.setdefault(key.outcome, Histogram()).merge(histogram)
    ordered = sorted(groups, key=lambda group: (*group[:2], _place(group[2])))
    return [_of_stage(*group, groups[group]) for group in ordered]


def _of_stage(collection: str, backend: str, stage: str, by_outcome: dict[str, Histogram]) -> StageLatency:
    outcomes = {outcome: histogram.count for outcome, histogram in sorted(by_outcome.items())}
    count, well = sum(outcomes.values()), by_outcome.get("ok")
    return StageLatency(
        collection=collection,
        backend=backend,
        stage=stage,
        count=count,
        outcomes=outcomes,
        errors=1 - outcomes.get("ok", 0) / count,
        percentiles_ms=None if well is None else {f"p{percent:g}": well.percentile(percent) for percent in PERCENTS},
        mean_ms=None if well is None else well.sum_ms / well.count,
        max_ms=None if well is None else well.max_ms,
    )


def _place(stage: str) -> int:
    return _ORDER.index(stage) if stage in _ORDER else len(_ORDER)


_ORDER = (*STAGES, *STAGES_BY_LENGTH)
