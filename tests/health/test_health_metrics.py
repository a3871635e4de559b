"""What Prometheus sees of health."""

import logging
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ops import health_metrics
from ops.health import running
from ops.health.check import Check, Subject
from ops.health_metrics import HealthMetrics
from tests.health.conftest import Patient, eventually


def scraped(metrics: HealthMetrics) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and its labels in the order of their names, as Prometheus' own parser reads them."""
    registry = CollectorRegistry()
    registry.register(metrics)
    text = generate_latest(registry).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value for sample in samples}


def of_check(found: dict[tuple[str, ...], float], check: str, collection: str, backend: str) -> float:
    return found["ragstone_health_check", backend, check, collection]


def test_the_level_of_every_check(patient: Patient, caplog: pytest.LogCaptureFixture) -> None:
    """Each check is a gauge of its level; a finding is logged when it comes, and when it is gone."""
    metrics = HealthMetrics(patient.rag, every_s=0)
    name = patient.collection.name
    assert scraped(metrics) == {}
    metrics.look()
    assert of_check(scraped(metrics), "filter_index_ready", name, "pgvector") == 0
    assert of_check(scraped(metrics), "backup_age", "", "") == 1
    patient.sql(f"DROP INDEX {patient.chunk}_metadata")
    with caplog.at_level(logging.WARNING):
        metrics.look()
        metrics.look()
    found = scraped(metrics)
    assert of_check(found, "filter_index_ready", name, "pgvector") == 2
    assert found["ragstone_health_last_run_timestamp_seconds",] == pytest.approx(time.time(), abs=60)
    assert found["ragstone_health_duration_seconds",] > 0
    told = [record.message for record in caplog.records if name in record.message]
    assert told == [f"health: filter_index_ready of {name} on pgvector is crit: there is none; build it: --fix"]
    patient.rag.delete_collection(name)
    with caplog.at_level(logging.WARNING):
        metrics.look()
    assert f"health: filter_index_ready of {name} on pgvector is not found any more" in caplog.messages
    assert not [key for key in scraped(metrics) if name in key]


def test_a_scrape_never_waits_for_a_check(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread checks now and then; scrapes get its last report, while a check goes on too."""
    looks = 0

    def slow(subject: Subject) -> Iterator[Check]:
        nonlocal looks
        looks += 1
        time.sleep(0.3 if looks > 1 else 0)
        yield subject.check("slow", "unknown")

    monkeypatch.setattr(running, "CHECKS", ())
    monkeypatch.setattr(running, "CORPUS_CHECKS", (slow,))
    with HealthMetrics(small.rag, every_s=0.05).running() as metrics:
        eventually(lambda: looks >= 2)
        began_s = time.monotonic()
        assert of_check(scraped(metrics), "slow", "", "") == 3
        assert time.monotonic() - began_s < 0.2
        eventually(lambda: looks >= 3)
    ended = looks
    time.sleep(0.4)
    assert looks == ended


def test_switched_off(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every_s 0 nothing is ever checked."""
    monkeypatch.setattr(health_metrics, "run", lambda rag: pytest.fail("it was checked"))
    with HealthMetrics(small.rag, every_s=0).running() as metrics:
        time.sleep(0.1)
        assert scraped(metrics) == {}


def test_a_look_that_fails_is_not_the_last(
    small: Patient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong with one report, the next is made."""
    real, looks = health_metrics.run, []

    def fails_once(rag: object) -> running.Report:
        looks.append(rag)
        if len(looks) == 1:
            raise RuntimeError("no thread can be started")
        return real(small.rag)

    monkeypatch.setattr(health_metrics, "run", fails_once)
    monkeypatch.setattr(running, "CHECKS", ())
    with HealthMetrics(small.rag, every_s=0.05).running() as metrics:
        eventually(lambda: scraped(metrics))
    assert "health: unexpected error" in caplog.messages
