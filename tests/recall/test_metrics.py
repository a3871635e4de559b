"""What Prometheus sees of recall."""

import threading
import time

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from backends.errors import CorpusUnavailable
from ops import recall, recall_metrics, scraping
from ops.recall.statistics import summary
from ops.recall.watching import Standing
from ops.recall_metrics import RecallMetrics, exported
from retrieval.service import create_app
from tests.recall.asking import Asked
from tests.service.serving import served


def scraped(text: str, collection: str) -> dict[str, float]:
    """Return the recall metrics of a collection: each with its band."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        f"{sample.name.removeprefix('ragstone_recall_')} {sample.labels['band']}": sample.value
        for sample in samples
        if sample.labels.get("collection") == collection and sample.name.startswith("ragstone_recall_")
    }


def collected(collector: RecallMetrics) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_a_service_exports_how_recall_stands(asked: Asked) -> None:
    """/metrics has mean, interval, worst and number of queries of each band, and says which is below its target."""
    asked.measured([0.7, 0.8] * 30, band="all")
    asked.measured([1.0] * 60, band="10%")
    with (
        recall.running(asked.rag) as capture,
        served(create_app(asked.rag, collectors=[RecallMetrics(asked.rag, capture)])) as url,
    ):
        text = httpx.get(f"{url}/metrics").text
    found = scraped(text, asked.name)
    low, high = found.pop("low all"), found.pop("high all")
    assert 0.7 < low < 0.75 < high < 0.8
    assert found == pytest.approx(
        {
            "mean all": 0.75, "p5 all": 0.7, "queries all": 60, "below_target all": 1,
            "mean 10%": 1, "low 10%": 1 - 3 / 61, "high 10%": 1, "p5 10%": 1, "queries 10%": 60, "below_target 10%": 0,
        }
    )  # fmt: skip
    assert "ragstone_recall_captured_total 0.0" in text
    assert "ragstone_recall_dropped_total 0.0" in text
    assert 'backend="pgvector"' in text


def test_labels_are_a_bounded_set() -> None:
    """Of many collections the 50 with the most measured queries are exported, with all their bands."""
    known = [
        Standing(collection=f"c{n}", backend="pgvector", band=band, target=0.9, recall=summary([1.0] * (n + 1)))
        for n in range(120)
        for band in ("all", "1%")
    ]
    kept = exported(known)
    assert {standing.collection for standing in kept} == {f"c{n}" for n in range(70, 120)}
    assert len(kept) == 100


def test_nothing_measured_exports_nothing(asked: Asked) -> None:
    """A collection of which nothing was measured has no recall, not one of 0; `absent()` can tell."""
    assert scraped(collected(RecallMetrics(asked.rag)), asked.name) == {}


def test_a_corpus_that_is_away_breaks_no_scrape(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """While PostgreSQL is away, or hangs, a scrape answers in time with what was known before."""
    asked.measured([1.0] * 10)
    metrics = RecallMetrics(asked.rag)
    monkeypatch.setattr(recall_metrics, "LOOK_EVERY_S", 0.0)
    before = scraped(collected(metrics), asked.name)
    assert before["queries all"] == 10

    def away(*_: object) -> list[Standing]:
        raise CorpusUnavailable("PostgreSQL cannot be reached: connection refused")

    monkeypatch.setattr(recall_metrics, "standings", away)
    assert scraped(collected(metrics), asked.name) == before

    release = threading.Event()
    monkeypatch.setattr(scraping, "LOOK_LIMIT_S", 0.05)
    monkeypatch.setattr(recall_metrics, "standings", lambda *_: release.wait(20) and [])
    began_s = time.monotonic()
    assert [scraped(collected(metrics), asked.name) for _ in range(3)] == [before] * 3
    assert time.monotonic() - began_s < 5
    release.set()


def test_scrapes_in_a_row_look_once(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several Prometheus servers do not make several looks into the corpus."""
    looks: list[int] = []
    monkeypatch.setattr(recall_metrics, "standings", lambda *_: looks.append(1) or [])
    metrics = RecallMetrics(asked.rag)
    for _ in range(5):
        collected(metrics)
    assert len(looks) == 1
