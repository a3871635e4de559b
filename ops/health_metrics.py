"""What Prometheus sees of health: the level of each check in the report that a thread makes now and then."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ops.health.check import LEVELS, Check
from ops.health.running import Report, run
from retrieval.library import Ragstone

FIRST_AFTER_S = 15.0
"""A service that starts has better things to do."""
STOP_WITHIN_S = 5.0

log = logging.getLogger(__name__)


class HealthMetrics(Collector):
    """Checks every `every_s` seconds while `running`; a scrape gets the last report, and never waits for one.

    With `every_s` 0 nothing is checked, and there are no metrics.
    """

    def __init__(self, rag: Ragstone, every_s: float) -> None:
        self._rag = rag
        self._every_s = every_s
        self._report: Report | None = None
        self._reported_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ragstone-health", daemon=True)

    @contextmanager
    def running(self) -> Iterator["HealthMetrics"]:
        """Check now and then while the block runs."""
        if self._every_s:
            self._thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            if self._every_s:
                self._thread.join(STOP_WITHIN_S)  # it is a daemon: a check that hangs keeps nothing from ending

    def look(self) -> None:
        """Make a report, and log what came and went since the one before."""
        report = run(self._rag)
        _tell(self._report, report)
        self._report, self._reported_s = report, time.time()

    def collect(self) -> Iterable[Metric]:
        report = self._report
        if report is None:
            return
        family = GaugeMetricFamily(
            "ragstone_health_check",
            "The level of a check: 0 ok, 1 warn, 2 crit, 3 unknown",
            labels=["check", "collection", "backend"],
        )
        for labels, level in _levels(report).items():
            family.add_metric(labels, level)
        yield family
        yield GaugeMetricFamily(
            "ragstone_health_last_run_timestamp_seconds", "When the checks were last made", value=self._reported_s
        )
        yield GaugeMetricFamily("ragstone_health_duration_seconds", "How long they took", value=report.took_s)

    def _run(self) -> None:
        wait_s = min(FIRST_AFTER_S, self._every_s)
        while not self._stopping.wait(wait_s):
            wait_s = self._every_s
            try:
                self.look()
            except Exception:  # whatever it is, the next look may see more
                log.exception("health: unexpected error")


def _levels(report: Report) -> dict[tuple[str, str, str], int]:
    """Return the level of every check. The report has the worst first: of two alike, that one counts."""
    found: dict[tuple[str, str, str], int] = {}
    for check in report.checks:
        found.setdefault((check.name, check.collection or "", check.backend or ""), LEVELS.index(check.level))
    return found


def _tell(before: Report | None, report: Report) -> None:
    """Log each finding once, and once that it is gone."""
    known = {} if before is None else {_named(check): check for check in before.findings}
    now = {_named(check): check for check in report.findings}
    for name, check in now.items():
        if name not in known:
            log.warning("health: %s is %s: %s; %s", name, check.level, check.detail, check.hint)
    for name in known:
        if name not in now:
            log.warning("health: %s is not found any more", name)


def _named(check: Check) -> str:
    where = " on ".join(part for part in (check.collection, check.backend) if part)
    return f"{check.name} of {where}" if where else check.name
