"""Whether there is a backup, of late, that was proven; and restores that were left in the middle."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from backends.corpus.backups import BackupRun, latest_runs
from backends.corpus.collections import delete_collection
from backends.corpus.health_indexes import LeftRestore, left_restores
from backends.corpus.staging import FORGOTTEN_S
from ops.health.check import Check, CheckFunction, Fix, FixFunction, Level, Subject
from retrieval.library import Ragstone

HOUR_S, DAY_S = 3_600.0, 86_400.0
AGE_WARN_S = 26 * HOUR_S
"""A backup a day, and two hours for it to run late."""
AGE_CRIT_S = 8 * DAY_S
VERIFIED_WARN_S = 8 * DAY_S
"""A drill a week, and a day."""
PROVING = ("hashes", "drill")
"""Depths that read every byte; sizes alone prove nothing."""
LEFT_AFTER_S = HOUR_S
_CREATE = "`ragstone backup create --repo URL`"
_VERIFY = "`ragstone backup verify --depth drill --repo URL`"


def backup_age(subject: Subject) -> Iterator[Check]:
    """How long ago the last good backup was made, and whether the last one failed."""
    runs = [run for run in latest_runs(subject.database) if run.kind == "create"]
    last, good = _last(runs), _last([run for run in runs if run.ok])
    age_s = None if good is None else _age_s(good)
    threshold = f"at most {AGE_WARN_S / HOUR_S:g} h, and the last one good"
    level, detail, hint = _of_creating(last, age_s) if last is not None else _never_made(subject)
    yield Check(name="backup_age", level=level, value=age_s, unit="s", threshold=threshold, detail=detail, hint=hint)


def _of_creating(last: BackupRun, age_s: float | None) -> tuple[Level, str, str]:
    if not last.ok:
        return "crit", f"the last backup failed: {last.problem}", f"mend that, then {_CREATE}"
    assert age_s is not None
    if age_s > AGE_WARN_S:
        detail = f"the last backup was made {age_s / HOUR_S:,.0f} hours ago"
        return "crit" if age_s > AGE_CRIT_S else "warn", detail, f"{_CREATE}, and see the cron lines in the README"
    return "ok", "", ""


def _never_made(subject: Subject) -> tuple[Level, str, str]:
    if not subject.rag.collections():
        return "ok", "there is nothing to back up yet", ""
    return "warn", "no backup was ever made", f"{_CREATE}, then every night: see the cron lines in the README"


def backup_verified(subject: Subject) -> Iterator[Check]:
    """How long ago a backup was proven good, every byte of it, and whether the last verification found damage."""
    runs = latest_runs(subject.database)
    proofs = [run for run in runs if run.kind == "verify"]
    last, good = _last(proofs), _last([run for run in proofs if run.ok and run.depth in PROVING])
    age_s = None if good is None else _age_s(good)
    level: Level = "ok"
    detail = hint = ""
    if last is not None and not last.ok:
        level, detail = "crit", f"the last verification failed: {last.problem}"
        hint = f"trust no backup before it is proven: {_CREATE} (a full one) elsewhere, then {_VERIFY}"
    elif any(run.kind == "create" and run.ok for run in runs) and (age_s is None or age_s > VERIFIED_WARN_S):
        detail = "no backup was ever proven" if age_s is None else f"the last proof is {age_s / DAY_S:.1f} days old"
        level, hint = "warn", _VERIFY
    yield Check(
        name="backup_verified",
        level=level,
        value=age_s,
        unit="s",
        threshold=f"at most {VERIFIED_WARN_S / DAY_S:g} days, and no damage",
        detail=detail,
        hint=hint,
    )


def restore_left(subject: Subject) -> Iterator[Check]:
    """Restores that were begun and left: their rows take room, and nobody sees them."""
    left = [one for one in left_restores(subject.database) if not one.worked_on and one.idle_s > LEFT_AFTER_S]
    names = ", ".join(sorted({one.target for one in left}))
    yield Check(
        name="restore_left",
        level="warn" if left else "ok",
        value=float(len(left)),
        unit="restores",
        threshold="0",
        detail=f"left in the middle: {names}" if left else "",
        hint="the same `ragstone backup restore` goes on with it; after a week `ragstone health --fix` removes it"
        if left
        else "",
    )


def remove_left(rag: Ragstone, check: Check) -> Fix | None:
    """Remove what was loaded by restores that nobody went on with for a week, as the next restore would."""
    old = [one for one in left_restores(rag.database) if not one.worked_on and one.idle_s > FORGOTTEN_S]
    if not old:
        return None

    names = ", ".join(f"{one.target} (from {one.backup_id})" for one in old)
    return Fix(
        description=f"remove what was loaded by {check.name.replace('_', ' ')}: {names}", run=lambda: _removed(rag, old)
    )


def _removed(rag: Ragstone, old: Sequence[LeftRestore]) -> None:
    for one in old:
        delete_collection(rag.database, one.collection)


def _last(runs: Sequence[BackupRun]) -> BackupRun | None:
    return max(runs, key=lambda run: run.finished_at, default=None)


def _age_s(run: BackupRun) -> float:
    return round((datetime.now(UTC) - run.finished_at).total_seconds(), 1)


CORPUS_CHECKS: tuple[CheckFunction, ...] = (backup_age, backup_verified, restore_left)
FIXES: dict[str, FixFunction] = {"restore_left": remove_left}
