"""What Prometheus sees of backups: when one last succeeded, was verified, failed.

It is read from the corpus, so that every process's runs show, also those that cron started.
"""

from collections.abc import Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.corpus.backups import BackupRun, latest_runs
from backends.corpus.database import Database
from ops.scraping import BoundedLook


class BackupMetrics(Collector):
    """Looks into the corpus once a scrape.

    Where that does not answer in time, what was known before is told again: times and outcomes of what has been.
    """

    def __init__(self, database: Database) -> None:
        self._look = BoundedLook[Sequence[BackupRun]]("backup", lambda: latest_runs(database), ())

    def collect(self) -> Iterable[Metric]:
        runs = self._look.value()
        yield from _of_creating([run for run in runs if run.kind == "create"])
        yield from _of_verifying([run for run in runs if run.kind == "verify"])


def _of_creating(runs: Sequence[BackupRun]) -> Iterable[Metric]:
    if not runs:
        return
    yield _gauge("last_outcome", "Whether the last backup succeeded: 1 or 0", int(_last(runs).ok))
    succeeded = [run for run in runs if run.ok]
    if succeeded:
        last = _last(succeeded)
        yield _gauge("last_success_timestamp_seconds", "When a backup last succeeded", _finished_s(last))
        yield _gauge("size_bytes", "Bytes that the last successful backup wrote", last.size_bytes)
        yield _gauge("chunks", "Chunks that the last successful backup wrote", last.chunks)
        yield _gauge("duration_seconds", "What the last successful backup took", last.duration_s)


def _of_verifying(runs: Sequence[BackupRun]) -> Iterable[Metric]:
    verified = GaugeMetricFamily(
        "ragstone_backup_last_verified_timestamp_seconds", "When a backup last proved good", labels=["depth"]
    )
    outcome = GaugeMetricFamily(
        "ragstone_backup_verification_last_outcome", "Whether the last verification succeeded: 1 or 0", labels=["depth"]
    )
    for depth in sorted({run.depth for run in runs if run.depth is not None}):
        of_depth = [run for run in runs if run.depth == depth]
        outcome.add_metric([depth], int(_last(of_depth).ok))
        succeeded = [run for run in of_depth if run.ok]
        if succeeded:
            verified.add_metric([depth], _finished_s(_last(succeeded)))
    yield from (family for family in (verified, outcome) if family.samples)


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"ragstone_backup_{name}", help_, value=value)


def _last(runs: Sequence[BackupRun]) -> BackupRun:
    return max(runs, key=_finished_s)


def _finished_s(run: BackupRun) -> float:
    return run.finished_at.timestamp()
