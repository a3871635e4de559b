"""The server that the corpus is in: each check sees a fault that was really made, and sees it mended."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from ops.health import postgres
from tests.health.conftest import Patient, eventually


def test_a_server_without_the_last_security_release(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minor version below the one that closed holes is a warning, and the one itself is not."""
    assert small.corpus_check(postgres.postgresql_version).level == "ok"
    major, minor = divmod(int(small.sql("SHOW server_version_num")[0][0]), 10_000)
    monkeypatch.setitem(postgres.MINOR_FLOORS, major, minor + 1)
    found = small.corpus_check(postgres.postgresql_version)
    assert (found.level, found.threshold) == ("warn", f"at least {major}.{minor + 1}")
    assert f"update to {major}.{minor + 1}" in found.hint


@pytest.mark.parametrize(("version", "level"), [("0.8.3", "crit"), ("0.8.4", "warn")])
def test_pgvector_that_was_not_updated_in_the_database(small: Patient, version: str, level: str) -> None:
    """SQL of an older pgvector than the one installed is seen, and updated."""
    ((newest,),) = small.sql("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    if version == newest:
        pytest.skip(f"the installed pgvector is {newest} itself")
    assert small.corpus_check(postgres.pgvector_version).level == "ok"
    small.sql("UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'", version)
    found = small.corpus_check(postgres.pgvector_version)
    assert found.level == level
    assert f"pgvector {version}" in found.detail
    assert small.mend(found) == f"ALTER EXTENSION vector UPDATE: from {version} to {newest}"
    assert small.corpus_check(postgres.pgvector_version).level == "ok"


def test_connections_that_run_out(small: Patient) -> None:
    """Connections near the least of all limits are critical, and their end is seen."""
    database = small.sql("SELECT current_database()")[0][0]
    small.sql(f"ALTER DATABASE {database} CONNECTION LIMIT 20")
    try:
        assert small.corpus_check(postgres.connections_used).level == "ok"
        with ExitStack() as others:
            for _ in range(16):
                others.enter_context(psycopg.connect(small.url))
            assert small.corpus_check(postgres.connections_used).level == "warn"
            for _ in range(3):
                others.enter_context(psycopg.connect(small.url))
            found = small.corpus_check(postgres.connections_used)
        assert found.level == "crit"
        assert "of the database's 20 connections" in found.detail
        eventually(lambda: small.corpus_check(postgres.connections_used).level == "ok")
    finally:
        small.sql(f"ALTER DATABASE {database} CONNECTION LIMIT -1")


def test_a_forgotten_transaction(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is left open, and sees rows, is named with its process until it ends."""
    monkeypatch.setattr(postgres, "TRANSACTION_WARN_S", 0.2)
    assert small.corpus_check(postgres.vacuum_held_back).level == "ok"
    with small.transaction() as forgotten:
        forgotten.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        forgotten.execute("SELECT count(*) FROM ragstone.collection")
        time.sleep(0.3)
        found = small.corpus_check(postgres.vacuum_held_back)
        assert (found.level, found.unit) == ("warn", "s")
        assert found.value is not None
        assert found.value > 0.2
        assert f"process {forgotten.info.backend_pid} " in found.detail
        assert "(forgotten), idle in transaction" in found.detail
        monkeypatch.setattr(postgres, "TRANSACTION_CRIT_S", 0.25)
        assert small.corpus_check(postgres.vacuum_held_back).level == "crit"
    assert small.corpus_check(postgres.vacuum_held_back).level == "ok"


def test_a_replication_slot_that_nobody_reads_from(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """WAL that is kept for nobody grows until the slot is dropped."""
    monkeypatch.setattr(postgres, "SLOT_WARN_BYTES", 20 << 20)
    small.sql("SELECT pg_create_physical_replication_slot('health_nobody', true)")
    try:
        assert small.corpus_check(postgres.replication_slots).level == "ok"
        for _ in range(3):  # each begins a new file of 16 MiB, the first one wherever the last file stood
            small.sql("SELECT pg_logical_emit_message(false, 'health', 'a record'), pg_switch_wal()")
        found = small.corpus_check(postgres.replication_slots)
        assert (found.level, found.detail) == ("warn", "health_nobody")
        assert "pg_drop_replication_slot('health_nobody')" in found.hint
    finally:
        small.sql("SELECT pg_drop_replication_slot('health_nobody')")
    assert small.corpus_check(postgres.replication_slots).level == "ok"


def test_a_table_that_autovacuum_leaves_alone(small: Patient) -> None:
    """A table whose autovacuum was switched off is named, and looked after again."""
    assert small.corpus_check(postgres.autovacuum_on).level == "ok"
    small.sql(f"ALTER TABLE {small.embedding} SET (autovacuum_enabled = off)")
    found = small.corpus_check(postgres.autovacuum_on)
    assert (found.level, found.value) == ("warn", 1)
    assert small.mend(found) == f"let autovacuum look after {small.embedding.removeprefix('ragstone.')} again"
    assert small.corpus_check(postgres.autovacuum_on).level == "ok"


def test_autovacuum_off_for_the_whole_server(small: Patient) -> None:
    """Autovacuum off is critical, until it is on again; no fix changes the server's own settings."""
    with server_setting(small, "autovacuum", "off"):
        eventually(lambda: small.corpus_check(postgres.autovacuum_on).level == "crit")
        assert small.corpus_check(postgres.autovacuum_on).detail == "autovacuum is off"
    eventually(lambda: small.corpus_check(postgres.autovacuum_on).level == "ok")


@pytest.mark.parametrize(("age", "level"), [(600_000_000, "warn"), (1_700_000_000, "crit")])
def test_transaction_numbers_that_run_out(small: Patient, age: int, level: str) -> None:
    """A table whose rows were not frozen for long is found, and frozen."""
    assert small.corpus_check(postgres.transaction_age).level == "ok"
    small.sql(
        "UPDATE pg_class SET relfrozenxid = ((txid_current() - %s + (1::bigint << 32)) %% (1::bigint << 32))"
        "::text::xid WHERE oid = %s::regclass",
        age,
        small.chunk,
    )
    found = small.corpus_check(postgres.transaction_age)
    assert (found.level, found.detail) == (level, f"table {small.chunk}")
    assert found.value == pytest.approx(age, abs=1_000)
    assert small.mend(found) == f"VACUUM (FREEZE) {small.chunk}"
    assert small.corpus_check(postgres.transaction_age).level == "ok"


@pytest.mark.parametrize(("kept", "level"), [(0.7, "warn"), (0.3, "crit")])
def test_dead_rows_that_nobody_removes(
    patient: Patient, kept: float, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are deleted in bulk, with autovacuum off, stay dead until a vacuum."""
    monkeypatch.setattr(postgres, "LEAST_DEAD", 100)
    patient.sql(f"ALTER TABLE {patient.embedding} SET (autovacuum_enabled = off)")
    with patient.rag.database.connection() as connection:  # it wrote the rows, and counts them when it likes
        connection.execute("SELECT pg_stat_force_next_flush()")
    patient.sql(f"ANALYZE {patient.embedding}")
    assert patient.check(postgres.dead_tuples).level == "ok"
    chunks = patient.state.chunks
    patient.sql(
        f"DELETE FROM {patient.embedding} WHERE chunk_id IN "
        f"(SELECT chunk_id FROM {patient.embedding} LIMIT {round((1 - kept) * chunks)})"
    )
    eventually(lambda: patient.check(postgres.dead_tuples).value)  # statistics come when a session has ended
    found = patient.check(postgres.dead_tuples)
    assert (found.level, found.value) == (level, pytest.approx(1 - kept, abs=0.01))
    assert patient.mend(found) == f"VACUUM (ANALYZE) the tables of {patient.collection.name}"
    assert patient.check(postgres.dead_tuples).level == "ok"


@contextmanager
def server_setting(patient: Patient, name: str, value: str) -> Iterator[None]:
    """Set something for the whole server, and take it back."""
    patient.sql(f"ALTER SYSTEM SET {name} = {value}")
    patient.sql("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        patient.sql(f"ALTER SYSTEM RESET {name}")
        patient.sql("SELECT pg_reload_conf()")
