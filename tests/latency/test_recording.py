"""What a recorder counts, how it is bounded, and how it gets into the corpus."""

import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest

import retrieval
from backends.corpus.database import Database
from backends.corpus.latencies import latencies_since
from backends.errors import CorpusUnavailable
from ops.latency import recording
from ops.latency.histogram import PARTS
from ops.latency.recording import MAX_COLLECTIONS, LatencyRecorder
from ops.latency.report import PERCENTS, report
from tests.latency.watching import answered, raw_percentile, searched

AN_HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def recorder(rag: retrieval.Ragstone) -> LatencyRecorder:
    return LatencyRecorder(rag.database)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A corpus that takes no latencies until `undo`."""

    def refuse(*_: object) -> None:
        raise CorpusUnavailable("PostgreSQL cannot be reached: connection refused")

    monkeypatch.setattr(recording, "add_latencies", refuse)
    return monkeypatch


def test_stages_are_counted_apart(recorder: LatencyRecorder) -> None:
    """Each stage of a search and of an answer has a histogram of its own; an answer's search is not counted twice."""
    recorder(searched(queue=0.1, embed=8, search=1, corpus=2, total=12))
    recorder(answered(embed=8, search=1, prompt=0.5, generate_first=40, generate=200, answer=212))
    assert {key.stage: round(histogram.max_ms, 9) for key, histogram in recorder.histograms().items()} == {
        "queue": 0.1, "embed": 8, "search": 1, "corpus": 2, "total": 12,
        "prompt": 0.5, "first_token": 40, "last_token": 200, "answer": 212,
        "first_token/0-512": 50, "next_token/0-512": 50,
    }  # fmt: skip
    assert all(histogram.count == 1 for histogram in recorder.histograms().values())


def test_labels_are_bounded(recorder: LatencyRecorder) -> None:
    """Beyond fifty collections, and for outcomes that nobody knows, there is "other"; nobody's data is in a label."""
    for number in range(MAX_COLLECTIONS + 20):
        recorder(searched(f"c{number:02}", total=1))
    recorder(searched("c00", outcome="a secret of the caller", total=1))
    keys = recorder.histograms()
    assert len({key.collection for key in keys}) == MAX_COLLECTIONS + 1
    assert sum(histogram.count for key, histogram in keys.items() if key.collection == "other") == 20
    assert {key.outcome for key in keys} == {"ok", "other"}
    assert "secret" not in str(list(keys))


def test_one_row_a_key_and_minute(recorder: LatencyRecorder, sql: psycopg.Connection) -> None:
    """A hundred searches of a minute are one row for each stage, of this process and this minute."""
    for _ in range(100):
        recorder(searched(search=1, total=2))
    recorder.flush()
    recorder.flush()
    rows = sql.execute(
        "SELECT stage, span_s, process IS NOT NULL, date_trunc('minute', began_at) = began_at, counts, sum_ms, max_ms"
        " FROM ragstone.latency ORDER BY stage"
    ).fetchall()
    assert rows == [("search", 60, True, True, [100], 100, 1), ("total", 60, True, True, [100], 200, 2)]


def test_two_processes_together(rag: retrieval.Ragstone, recorder: LatencyRecorder) -> None:
    """The report of what two processes stored agrees with the raw samples within the width of a bucket."""
    random = np.random.default_rng(1)
    samples_ms = random.lognormal(2, 1.5, 2_000)
    other = LatencyRecorder(rag.database)
    for one, part in ((recorder, samples_ms[:500]), (other, samples_ms[500:])):
        for sample_ms in part:
            one(searched(total=float(sample_ms)))
        one.flush()
    (found,) = report(rag.database, AN_HOUR_AGO)
    assert found.percentiles_ms is not None
    for percent in PERCENTS:
        true_ms = raw_percentile(samples_ms, percent)
        assert found.percentiles_ms[f"p{percent:g}"] == pytest.approx(true_ms, rel=1 / PARTS)
    assert (found.count, found.max_ms) == (2_000, samples_ms.max())
    assert found.mean_ms == pytest.approx(samples_ms.mean())


def test_the_report_has_what_is_not_written_yet(rag: retrieval.Ragstone, recorder: LatencyRecorder) -> None:
    """With the recorder of this process, what it has counted since it last wrote is in the report, once."""
    recorder(searched(total=1))
    recorder.flush()
    recorder(searched(total=2))
    recorder(searched("another", total=3))
    assert [one.count for one in report(rag.database, AN_HOUR_AGO)] == [1]
    assert [one.count for one in report(rag.database, AN_HOUR_AGO, "handbook", recorder)] == [2]


def test_errors_are_told_and_do_not_flatter(rag: retrieval.Ragstone, recorder: LatencyRecorder) -> None:
    """Quick refusals do not lower the percentiles: those are of what went well, beside the share that did not."""
    for _ in range(30):
        recorder(searched(total=10))
    for _ in range(10):
        recorder(searched(outcome="queue_full", total=0.1))
    recorder(searched("broken", outcome="corpus_unavailable", total=5))
    broken, handbook = report(rag.database, AN_HOUR_AGO, recorder=recorder)
    assert (handbook.count, handbook.errors, handbook.outcomes) == (40, 0.25, {"ok": 30, "queue_full": 10})
    assert handbook.percentiles_ms is not None
    assert handbook.percentiles_ms["p50"] == pytest.approx(10, rel=1 / PARTS)
    assert (broken.percentiles_ms, broken.mean_ms, broken.errors) == (None, None, 1)


def test_nothing_is_lost_while_the_corpus_is_away(
    rag: retrieval.Ragstone, recorder: LatencyRecorder, away: pytest.MonkeyPatch
) -> None:
    """What the corpus did not take is written when it is back; /metrics has counted it all along."""
    for value_ms in (1, 2, 3):
        recorder(searched(total=value_ms))
        with pytest.raises(CorpusUnavailable):
            recorder.flush()
    (histogram,) = recorder.histograms().values()
    assert histogram.count == 3
    away.undo()
    recorder.flush()
    (kept,) = latencies_since(rag.database, AN_HOUR_AGO)
    assert (sum(kept.counts), kept.max_ms) == (3, 3)
    assert not recorder.unwritten()


def test_what_waits_is_bounded(
    recorder: LatencyRecorder, away: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A corpus that is away for longer than an hour costs the oldest minutes, as the log says, not ever more memory."""
    away.setattr(recording, "MINUTES_KEPT", 3)
    for value_ms in range(5):
        recorder(searched(total=value_ms))
        with pytest.raises(CorpusUnavailable):
            recorder.flush()
    (left,) = recorder.unwritten().values()
    assert left.count == 3
    assert sum("are lost" in record.message for record in caplog.records) == 2


def test_the_last_minute_is_written_at_the_end(rag: retrieval.Ragstone, recorder: LatencyRecorder) -> None:
    """What was counted since the last full minute is in the corpus when the recorder has stopped."""
    with recorder.running():
        recorder(searched(total=1))
    (kept,) = latencies_since(rag.database, AN_HOUR_AGO)
    assert sum(kept.counts) == 1


def test_written_while_it_runs(
    rag: retrieval.Ragstone, recorder: LatencyRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every full minute (here, of 0.1 s) the corpus gets what was counted; a failure does not end that."""
    monkeypatch.setattr(recording, "MINUTE_S", 0.1)
    failures = iter([CorpusUnavailable("away"), ZeroDivisionError("a fault")])
    really_add, written = recording.add_latencies, threading.Event()

    def add(database: Database, *rest: object) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        really_add(database, *rest)  # type: ignore[arg-type]  # passed on as they came
        written.set()

    monkeypatch.setattr(recording, "add_latencies", add)
    with recorder.running():
        recorder(searched(total=1))
        assert written.wait(10)
    assert [sum(row.counts) for row in latencies_since(rag.database, AN_HOUR_AGO)] == [1]
