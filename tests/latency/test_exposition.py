"""What Prometheus is shown: its own parser reads it, the counts are exact, the labels bounded."""

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import retrieval
from ops import latency
from ops.latency.exposition import BOUNDS_MS, LatencyMetrics
from ops.latency.recording import MAX_COLLECTIONS, LatencyRecorder
from retrieval.service import create_app
from tests.latency.watching import searched
from tests.service.serving import served


def scraped(recorder: LatencyRecorder) -> Metric:
    """Return the one family that a scrape of this recorder shows, as Prometheus' parser reads it."""
    registry = CollectorRegistry()
    registry.register(LatencyMetrics(recorder))
    (family,) = text_string_to_metric_families(generate_latest(registry).decode())
    return family


def test_counts_are_those_of_the_samples(rag: retrieval.Ragstone) -> None:
    """Each bucket counts exactly the samples at or below its bound; sum and count are exact."""
    recorder = LatencyRecorder(rag.database)
    samples_ms = [*np.random.default_rng(2).lognormal(2, 2, 500).round(3), *BOUNDS_MS, 0.0, 1e7]
    for sample_ms in samples_ms:
        recorder(searched(total=float(sample_ms)))
    family = scraped(recorder)
    assert (family.name, family.type) == ("ragstone_stage_duration_seconds", "histogram")
    values = {(sample.name.rpartition("_")[2], sample.labels.get("le")): sample.value for sample in family.samples}
    assert values.pop(("sum", None)) == pytest.approx(sum(samples_ms) / 1000)
    assert values.pop(("count", None)) == values.pop(("bucket", "+Inf")) == len(samples_ms)
    assert {float(le or "nan"): count for (_, le), count in values.items()} == {
        bound_ms / 1000: sum(sample_ms <= bound_ms for sample_ms in samples_ms) for bound_ms in BOUNDS_MS
    }


def test_counters_never_go_back(rag: retrieval.Ragstone) -> None:
    """What was given to the corpus is shown on: Prometheus takes a counter that falls for a restart."""
    recorder = LatencyRecorder(rag.database)
    counts = []
    for _ in range(3):
        recorder(searched(total=1))
        counts += [sample.value for sample in scraped(recorder).samples if sample.name.endswith("_count")]
        recorder.flush()
    assert counts == [1, 2, 3]


def test_labels_are_bounded(rag: retrieval.Ragstone) -> None:
    """At most fifty collections are named, and no label has a query's filter, a document's id or an unknown word."""
    recorder = LatencyRecorder(rag.database)
    for number in range(2 * MAX_COLLECTIONS):
        recorder(searched(f"c{number}", outcome="ok" if number % 2 else "made up", queue=1, total=2, unheard_of=3))
    samples = scraped(recorder).samples
    names = {name for sample in samples for name in sample.labels}
    assert names == {"collection", "backend", "stage", "outcome", "le"}
    assert len({sample.labels["collection"] for sample in samples}) == MAX_COLLECTIONS + 1
    assert {sample.labels["outcome"] for sample in samples} == {"ok", "other"}
    assert {sample.labels["stage"] for sample in samples} == {"queue", "total"}
    assert "secret" not in str(samples)


def test_nothing_counted_yet_is_read_too(rag: retrieval.Ragstone) -> None:
    """A service that was never asked anything shows the family without a sample."""
    assert scraped(LatencyRecorder(rag.database)).samples == []


def test_a_service_shows_its_stages(rag: retrieval.Ragstone) -> None:
    """/metrics of a service that records has every stage of a retrieval and an answer, and not what was asked."""
    rag.create_collection("served").upsert([retrieval.Document(id="secret-id", text="thirty days of leave")])
    with latency.record(rag) as recorder, served(create_app(rag, collectors=[LatencyMetrics(recorder)])) as url:
        asked = {"query": "how many days of leave", "filter": {"user": {"$ne": "secret-user"}}}
        httpx.post(f"{url}/v1/collections/served/generate", json=asked).raise_for_status()
        text = httpx.get(f"{url}/metrics").text
    rag.delete_collection("served")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["ragstone_stage_duration_seconds"].samples
    assert {sample.labels["stage"] for sample in samples} == {
        "queue", "embed", "search", "total", "prompt", "first_token", "last_token", "answer",
    }  # fmt: skip
    assert {
        (sample.labels["collection"], sample.labels["backend"], sample.labels["outcome"]) for sample in samples
    } == {("served", "pgvector", "ok")}
    assert not any(secret in text for secret in ("secret-id", "secret-user", "how many days"))
