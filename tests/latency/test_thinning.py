"""Latencies in the corpus get coarser with age, whoever stored them, and are forgotten after a year."""

import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

import retrieval
from backends.corpus.latencies import latencies_since, thin_latencies
from backends.corpus.queries import query
from ops.latency import recording
from ops.latency.recording import LatencyRecorder, thin
from tests.latency.watching import searched

LONG_AGO = datetime.now(UTC) - timedelta(days=1_000)


def store(rag: retrieval.Ragstone, sql: psycopg.Connection, *latencies_ms: float, ago: timedelta, name: str) -> None:
    """Store latencies as a process of its own did, some time ago."""
    recorder = LatencyRecorder(rag.database)
    for latency_ms in latencies_ms:
        recorder(searched(name, total=latency_ms))
    recorder.flush()
    sql.execute("UPDATE ragstone.latency SET began_at = began_at - %s WHERE began_at > now() - interval '1 h'", [ago])


def spans(sql: psycopg.Connection) -> list[tuple[str, int, int, bool]]:
    """Return of each row its collection, span, count, and whether it is one process's."""
    return sql.execute(
        "SELECT collection, span_s, (SELECT sum(n)::int FROM unnest(counts) n), process IS NOT NULL"
        " FROM ragstone.latency ORDER BY 1, 2, 3"
    ).fetchall()


def test_minutes_become_hours_of_all_processes(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """Minutes that are more than a day old are one row for the hour, of both processes; younger ones stay minutes."""
    two_days = timedelta(days=2, minutes=datetime.now(UTC).minute)  # to the minute at which an hour begins
    for minute in (0, 7, 50):
        store(rag, sql, 1, 2, 300, ago=two_days - timedelta(minutes=minute), name="old")
    store(rag, sql, 1, ago=timedelta(hours=20), name="young")
    before = latencies_since(rag.database, LONG_AGO)
    thin(rag.database)
    assert spans(sql) == [("old", 3_600, 9, False), ("young", 60, 1, True)]
    assert latencies_since(rag.database, LONG_AGO) == before
    assert sql.execute("SELECT bool_and(extract(minute FROM began_at) = 0) FROM ragstone.latency WHERE span_s = 3600"
                       ).fetchone() == (True,)  # fmt: skip


def test_hours_become_days_and_a_year_is_forgotten(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """After 30 days there is one row a day, after a year none: minutes that nobody thinned go the same way at once."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for days, hours in ((40, (1, 1, 23)), (400, (5,))):
        for hour in hours:
            ago = datetime.now(UTC) - (midnight - timedelta(days=days) + timedelta(hours=hour))
            store(rag, sql, 5, ago=ago, name=f"{days} days")
    thin(rag.database)
    assert spans(sql) == [("40 days", 86_400, 3, False)]


def test_a_late_minute_adds_to_its_hour(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """What a process could store only when its hour was added up already is counted all the same, once."""
    for _ in range(2):
        store(rag, sql, 1, 2, ago=timedelta(days=2), name="old")
        thin(rag.database)
    (row,) = latencies_since(rag.database, LONG_AGO)
    assert sum(row.counts) == 4


def test_one_step_is_one_collection(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """A step adds up one span of one collection, however many there are, so that no statement is long."""
    for name in ("a", "b"):
        store(rag, sql, 1, ago=timedelta(days=2), name=name)
    assert thin_latencies(rag.database) == "some"
    assert [span_s for _, span_s, *_ in spans(sql)] == [3_600, 60]
    assert thin_latencies(rag.database) == "some"
    assert thin_latencies(rag.database) == "nothing"


def test_one_process_at_a_time(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """While one process thins, another leaves it to that one, and does not wait."""
    store(rag, sql, 1, ago=timedelta(days=2), name="old")
    with sql.transaction():
        sql.execute("SELECT pg_advisory_xact_lock(x'6c61'::int, 0)")
        assert thin_latencies(rag.database) == "another"
        thin(rag.database)
        assert [span_s for _, span_s, *_ in spans(sql)] == [60]
    assert thin_latencies(rag.database) == "some"


def test_two_at_once_count_everything_once(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """Four threads that thin at the same time lose and double nothing."""
    for minute in range(40):
        store(rag, sql, 1, 2, ago=timedelta(days=2, minutes=7 * minute), name=f"c{minute % 3}")
    threads = [threading.Thread(target=thin, args=(rag.database,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    thin(rag.database)
    assert sum(count for _, _, count, _ in spans(sql)) == 80
    assert {span_s for _, span_s, *_ in spans(sql)} == {3_600}


def test_thinning_is_part_of_running(
    rag: retrieval.Ragstone, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorder that runs thins what is old, also what other processes left."""
    store(rag, sql, 1, ago=timedelta(days=2), name="old")
    monkeypatch.setattr(recording, "MINUTE_S", 0.05)
    thinned = threading.Event()
    really_thin = recording.thin
    monkeypatch.setattr(recording, "thin", lambda *given: (really_thin(*given), thinned.set()))
    with LatencyRecorder(rag.database).running():
        assert thinned.wait(10)
    assert [span_s for _, span_s, *_ in spans(sql)] == [3_600]


def test_only_the_time_asked_for_is_read(rag: retrieval.Ragstone, sql: psycopg.Connection) -> None:
    """A question for one hour counts that hour, and finds it by the index on when spans began."""
    store(rag, sql, 1, ago=timedelta(), name="c")
    sql.execute(
        "INSERT INTO ragstone.latency SELECT began_at - n * interval '1 min', span_s, process, collection, backend,"
        " stage, outcome, buckets, counts, sum_ms, max_ms FROM ragstone.latency, generate_series(1, 20000) n"
    )
    sql.execute("ANALYZE ragstone.latency")
    since = datetime.now(UTC) - timedelta(hours=1)
    (found,) = latencies_since(rag.database, since)
    assert 60 <= sum(found.counts) <= 62
    plan = sql.execute("EXPLAIN " + query("latencies", "since"), {"since": since, "collection": None}).fetchall()
    assert "latency_began" in str(plan)
    assert "Seq Scan" not in str(plan)
