"""What Prometheus sees of backups."""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import retrieval
from backends.corpus.backups import BackupRun, record_run
from backends.errors import CorpusUnavailable
from ops import backup_metrics, scraping
from ops.backup_metrics import BackupMetrics
from retrieval.config import load
from retrieval.service import create_app
from tests.service.serving import database_of_its_own, served

REPOSITORY = "s3://a-bucket/of-mine"
FULL = "20261125T143012.123456Z-full"


@pytest.fixture
def rag(postgres_url: str) -> Iterator[retrieval.Ragstone]:
    """A corpus without a backup."""
    settings = load(embedding_model="hashing")
    with (
        database_of_its_own(postgres_url, "backup_metrics") as url,
        retrieval.open(url, settings=settings) as rag,
    ):
        yield rag


def ended(
    kind: Literal["create", "verify"], *, ok: bool = True, depth: str | None = None, chunks: int = 7
) -> BackupRun:
    """Return a run that ended so."""
    return BackupRun(
        kind=kind,
        repository=REPOSITORY,
        backup_id=FULL if ok else None,
        depth=depth,
        ok=ok,
        problem=None if ok else "the bucket is full",
        chunks=chunks,
        size_bytes=1_000 * chunks,
        duration_s=1.5,
    )


def scraped(text: str) -> dict[str, float]:
    """Return the backup metrics of a scrape: each with its depth, where it has one."""
    found = {}
    for sample in [sample for family in text_string_to_metric_families(text) for sample in family.samples]:
        name = sample.name.removeprefix("ragstone_backup_")
        if name != sample.name:
            found[" ".join([name, *sample.labels.values()])] = sample.value
    return found


def collected(collector: BackupMetrics) -> dict[str, float]:
    """Scrape this collector alone."""
    registry = CollectorRegistry()
    registry.register(collector)
    return scraped(generate_latest(registry).decode())


def test_without_backups_there_are_none(rag: retrieval.Ragstone) -> None:
    """A corpus that was never backed up exports nothing of backups, which `absent()` can tell."""
    assert collected(BackupMetrics(rag.database)) == {}


def test_only_a_failure_has_no_success(rag: retrieval.Ragstone) -> None:
    """Where no backup succeeded yet, the failure is all there is."""
    record_run(rag.database, ended("create", ok=False))
    assert collected(BackupMetrics(rag.database)) == {"last_outcome": 0}


def test_a_service_exports_runs_of_any_process(rag: retrieval.Ragstone) -> None:
    """/metrics shows the last success with its figures, that a later run failed, and each depth of verification."""
    began_s = time.time() - 5  # PostgreSQL's clock may be another
    with served(create_app(rag, collectors=[BackupMetrics(rag.database)])) as url:
        for run in (
            ended("create", chunks=3),
            ended("create", chunks=9),
            ended("create", ok=False, chunks=0),
            ended("verify", depth="drill"),
            ended("verify", depth="hashes", ok=False),
            ended("verify", depth="hashes"),
            ended("verify", depth="sizes", ok=False),
        ):
            record_run(rag.database, run)
        text = httpx.get(f"{url}/metrics").text
    found = scraped(text)
    times = {name: found.pop(name) for name in list(found) if "timestamp" in name}
    assert found == {
        "last_outcome": 0,
        "chunks": 9,
        "size_bytes": 9_000,
        "duration_seconds": 1.5,
        "verification_last_outcome drill": 1,
        "verification_last_outcome hashes": 1,
        "verification_last_outcome sizes": 0,
    }
    assert set(times) == {
        "last_success_timestamp_seconds",
        "last_verified_timestamp_seconds drill",
        "last_verified_timestamp_seconds hashes",
    }
    assert all(began_s <= at_s <= time.time() + 5 for at_s in times.values())
    assert "ragstone_database_pool_size" in text
    assert not re.search(rf"{REPOSITORY}|{FULL}|the bucket is full", text)


def test_a_later_success_ends_the_failure(rag: retrieval.Ragstone) -> None:
    """The outcome is the last run's, whichever ran before."""
    metrics = BackupMetrics(rag.database)
    for ok in (True, False, True):
        record_run(rag.database, ended("create", ok=ok))
        assert collected(metrics)["last_outcome"] == ok


def test_a_corpus_that_is_away_breaks_no_scrape(rag: retrieval.Ragstone, monkeypatch: pytest.MonkeyPatch) -> None:
    """While PostgreSQL is away, or hangs, a scrape answers in time with what was known before."""
    at = datetime(2026, 11, 25, tzinfo=UTC)
    known = [replace(ended("create"), finished_at=at)]
    metrics = BackupMetrics(rag.database)
    monkeypatch.setattr(backup_metrics, "latest_runs", lambda _: known)
    before = collected(metrics)
    assert before["last_success_timestamp_seconds"] == at.timestamp()

    def away(_: object) -> list[BackupRun]:
        raise CorpusUnavailable("PostgreSQL cannot be reached: connection refused")

    monkeypatch.setattr(backup_metrics, "latest_runs", away)
    assert collected(metrics) == before

    release, asked = threading.Event(), []
    monkeypatch.setattr(scraping, "LOOK_LIMIT_S", 0.05)
    monkeypatch.setattr(backup_metrics, "latest_runs", lambda _: asked.append(1) or release.wait(20) or known)
    began_s = time.monotonic()
    assert [collected(metrics) for _ in range(3)] == [before] * 3
    assert time.monotonic() - began_s < 5
    assert len(asked) == 1
    release.set()


def test_the_readme_alerts_on_what_there_is(rag: retrieval.Ragstone) -> None:
    """Every metric of backups that the README names is one that is exported."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for run in (ended("create"), ended("verify", depth="drill")):
        record_run(rag.database, run)
    exported = {name.split()[0] for name in collected(BackupMetrics(rag.database))}
    named = set(re.findall(r"ragstone_backup_(\w+)", readme))
    assert named <= exported
    assert len(named) >= 4
