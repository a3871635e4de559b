"""HNSW and the index on the metadata: each check sees a fault that was really made, and sees it mended."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from backends.corpus.collections import COLUMN_TYPE
from backends.corpus.health_figures import BuildFigures
from backends.corpus.indexes import sample_embeddings
from backends.types import IndexSpec
from ops.health import hnsw
from retrieval.config import Settings
from tests.health.conftest import CHUNKS, DIMENSION, Patient, eventually, opened, put
from tests.service.serving import database_of_its_own


def test_an_index_that_was_dropped_under_the_table(patient: Patient) -> None:
    """A large collection without HNSW is critical; it is built again, and a search uses it."""
    assert patient.check(hnsw.hnsw_ready).level == "ok"
    patient.sql(f"DROP INDEX {patient.hnsw}")
    found = patient.check(hnsw.hnsw_ready)
    assert (found.level, found.detail) == ("crit", "there is none: searches compare every embedding")
    assert patient.mend(found) == f"build HNSW of {patient.collection.name}"
    assert patient.check(hnsw.hnsw_ready).level == "ok"


def test_a_collection_that_is_too_small_for_an_index(small: Patient) -> None:
    """No index is missed where none is wanted, and nothing is said of one that is not there."""
    functions = set(hnsw.CHECKS) - {hnsw.leftover_indexes}
    assert [check for function in functions for check in small.checks(function)] == []


def test_a_build_that_waits_and_is_interrupted(patient: Patient) -> None:
    """A build that waits for somebody's transaction says for whose; cancelled, it leaves an invalid index behind."""
    patient.sql(f"DROP INDEX {patient.hnsw}")
    with patient.transaction() as forgotten:
        forgotten.execute(f"LOCK TABLE {patient.embedding} IN ROW EXCLUSIVE MODE")
        with built_meanwhile(patient, hnsw.index_of(patient.rag, patient.state).build_missing):
            eventually(lambda: patient.checks(hnsw.build_progress).get("build_progress"))
            eventually(lambda: patient.check(hnsw.build_progress).level == "warn")
            found = patient.check(hnsw.build_progress)
            assert f"waits for process {forgotten.info.backend_pid} " in found.detail
            assert "(forgotten)" in found.detail
            assert patient.check(hnsw.hnsw_ready).level == "warn"
    found = patient.check(hnsw.hnsw_ready)
    assert (found.level, "it is invalid" in found.detail) == ("crit", True)
    assert patient.checks(hnsw.build_progress) == {}
    patient.mend(found)
    assert patient.check(hnsw.hnsw_ready).level == "ok"


def test_how_far_a_build_is() -> None:
    """The share of a phase and what is left of it come from the blocks read, or from the rows where it counts those."""
    blocks = BuildFigures("building index: loading tuples", 25, 100, 0, 0, 60.0, None)
    rows = BuildFigures("building index: scanning", 0, 0, 30, 40, 60.0, None)
    assert (blocks.share, rows.share) == (0.25, 0.75)
    assert hnsw._going(blocks) == "building index: loading tuples, 25% done, about 3 min 0 s left of this phase"


def test_filters_without_their_index(patient: Patient) -> None:
    """A lost index on the metadata is critical, and is built again."""
    assert patient.check(hnsw.filter_index_ready).level == "ok"
    patient.sql(f"DROP INDEX {patient.chunk}_metadata")
    found = patient.check(hnsw.filter_index_ready)
    assert (found.level, found.detail) == ("crit", "there is none")
    assert patient.mend(found) == f"build the index on the metadata of {patient.collection.name}"
    assert patient.check(hnsw.filter_index_ready).level == "ok"


def test_what_an_interrupted_reindex_leaves(patient: Patient) -> None:
    """The half-built copy of a cancelled REINDEX CONCURRENTLY is found, and dropped; the index itself stays."""
    assert patient.check(hnsw.leftover_indexes).level == "ok"

    def reindex() -> None:
        with pytest.raises(psycopg.errors.QueryCanceled):
            patient.sql(f"REINDEX INDEX CONCURRENTLY {patient.hnsw}")

    with patient.transaction() as forgotten:
        forgotten.execute(f"LOCK TABLE {patient.embedding} IN ROW EXCLUSIVE MODE")
        with built_meanwhile(patient, reindex):
            eventually(lambda: patient.checks(hnsw.build_progress))
            assert patient.check(hnsw.leftover_indexes).level == "ok"
    name = f"{patient.hnsw.removeprefix('ragstone.')}_ccnew"
    found = patient.check(hnsw.leftover_indexes)
    assert (found.level, found.detail) == ("warn", name)
    assert patient.mend(found) == f"DROP INDEX CONCURRENTLY {name}"
    assert patient.check(hnsw.leftover_indexes).level == "ok"
    assert patient.check(hnsw.hnsw_ready).level == "ok"


def test_a_graph_that_does_not_fit_into_memory(patient: Patient) -> None:
    """With little maintenance_work_mem the next build is foretold to be slow; with enough it is not."""
    assert patient.check(hnsw.build_memory).level == "ok"
    with database_setting(patient, "maintenance_work_mem", "64kB"), patient.reopened() as other:
        found = other.check(hnsw.build_memory)
        assert found.level == "warn"
        assert "set maintenance_work_mem to " in found.hint
    with patient.reopened() as other:
        assert other.check(hnsw.build_memory).level == "ok"


@pytest.mark.parametrize(("share", "fits"), [(0.93, True), (1.07, False)])
def test_the_memory_of_a_build_is_foretold_as_pgvector_needs_it(url: str, share: float, fits: bool) -> None:
    """Its own notice says that the graph outgrew the memory where the estimate does, to seven hundredths."""
    memory_bytes = 2 << 20  # pgvector takes memory by the MiB
    spec = IndexSpec(dimension=DIMENSION)
    rows = round(share * memory_bytes / hnsw.graph_bytes(1, spec))
    with psycopg.connect(url, autocommit=True) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute(f"SET maintenance_work_mem = {memory_bytes >> 10}".encode())
        index_bytes(connection, rows, spec)
    assert any("no longer fits" in notice for notice in notices) is not fits


@pytest.mark.parametrize(
    ("rows", "spec"),
    [
        (2_000, IndexSpec(dimension=16)),
        (300, IndexSpec(dimension=384)),
        (200, IndexSpec(dimension=1_024, precision="single")),
        (50, IndexSpec(dimension=2_000, precision="single")),
    ],
    ids=lambda value: f"d{value.dimension}" if isinstance(value, IndexSpec) else None,
)
def test_the_size_of_an_index_is_foretold_by_pages(url: str, rows: int, spec: IndexSpec) -> None:
    """What HNSW takes anew is known, whether many embeddings share a page or one needs two."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = index_bytes(connection, rows, spec)
    assert found == pytest.approx(hnsw.expected_bytes(rows, spec), rel=0.06)


def test_pages_that_are_not_in_memory(postgres_url: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart (here: in a copy of the database's files) pages are read from disk, until they have been used."""
    monkeypatch.setattr(hnsw, "LEAST_PAGES", 200)
    with database_of_its_own(postgres_url, "health_warm") as url:
        with opened(url, settings) as rag:
            patient = Patient(rag, url, rag.create_collection("a", dimension=DIMENSION))
            put(patient.collection, range(CHUNKS))
            patient.build()
        with copied(postgres_url, "health_warm", "health_cold") as url, opened(url, settings) as rag:
            patient = Patient(rag, url, rag.collection("a"))
            assert patient.check(hnsw.index_cached).detail.startswith("0 of 0 pages")
            search(patient, 3)
            found = patient.check(hnsw.index_cached)
            assert found.level == "warn"
            assert found.value is not None
            assert 0.5 < found.value < 0.99
            search(patient, 150)
            assert patient.check(hnsw.index_cached).level == "ok"


@pytest.mark.parametrize(("groups", "level"), [(11, "warn"), (20, "crit")])
def test_an_index_that_is_mostly_empty(
    patient: Patient, groups: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bulk delete HNSW keeps its size, until it is built anew beside the old one."""
    monkeypatch.setattr(hnsw, "LEAST_BLOAT_BYTES", 0)
    assert patient.check(hnsw.index_bloat).level == "ok"
    patient.collection.delete(filter={"group": {"$lt": groups}})
    found = patient.check(hnsw.index_bloat)
    assert (found.level, found.value) == (level, pytest.approx(25 / (25 - groups), rel=0.1))
    assert "REINDEX INDEX CONCURRENTLY" in patient.mend(found)
    assert patient.check(hnsw.index_bloat).level == "ok"


def test_an_index_that_the_planner_cannot_use(patient: Patient) -> None:
    """An index of the right name for another metric is never scanned: it is critical, and built as it should be."""
    assert patient.check(hnsw.planner_uses_index).level == "ok"
    patient.sql(f"DROP INDEX {patient.hnsw}")
    name = patient.hnsw.removeprefix("ragstone.")
    patient.sql(f"CREATE INDEX {name} ON {patient.embedding} USING hnsw (embedding halfvec_l2_ops)")
    found = patient.check(hnsw.planner_uses_index)
    assert (found.level, found.value) == ("crit", 2)
    assert found.detail == "a search and a filtered search would not use it"
    assert "build it" in patient.mend(found)
    assert patient.check(hnsw.planner_uses_index).level == "ok"


def index_bytes(connection: psycopg.Connection[Any], rows: int, spec: IndexSpec) -> int:
    """Build HNSW on so many embeddings, and return what it takes."""
    kind = COLUMN_TYPE[spec.precision]
    connection.execute("SET max_parallel_maintenance_workers = 0")
    connection.execute(
        f"CREATE TEMPORARY TABLE sized AS SELECT (SELECT array_agg(random()) FROM generate_series(1, {spec.dimension}) "
        f"WHERE number > 0)::{kind}({spec.dimension}) AS embedding FROM generate_series(1, {rows}) number".encode()
    )
    connection.execute(f"CREATE INDEX sized_hnsw ON sized USING hnsw (embedding {kind}_l2_ops)".encode())
    ((size_bytes,),) = connection.execute("SELECT pg_relation_size('sized_hnsw')").fetchall()
    return int(size_bytes)


def search(patient: Patient, times: int) -> None:
    """Search for stored embeddings, and have PostgreSQL count what that read."""
    for query in sample_embeddings(patient.rag.database, patient.state, times, seed=1):
        patient.collection.search(query, 10)
    with patient.rag.database.connection() as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")


@contextmanager
def built_meanwhile(patient: Patient, build: object) -> Iterator[None]:
    """Build in another thread while the block runs, and cancel the build at its end."""
    assert callable(build)
    building = threading.Thread(target=build)
    building.start()
    try:
        yield
    finally:
        while building.is_alive():
            patient.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_progress_create_index")
            building.join(0.1)


@contextmanager
def database_setting(patient: Patient, name: str, value: str) -> Iterator[None]:
    """Set something for the sessions to come, and take it back."""
    ((database,),) = patient.sql("SELECT current_database()")
    patient.sql(f"ALTER DATABASE {database} SET {name} = '{value}'")
    try:
        yield
    finally:
        patient.sql(f"ALTER DATABASE {database} RESET {name}")


@contextmanager
def copied(postgres_url: str, source: str, target: str) -> Iterator[str]:
    """Copy a database file by file, past the memory that both would share."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {target}".encode())
        connection.execute(f"CREATE DATABASE {target} TEMPLATE {source} STRATEGY file_copy".encode())
        try:
            yield urlsplit(postgres_url)._replace(path=f"/{target}").geturl()
        finally:
            connection.execute(f"DROP DATABASE {target} WITH (FORCE)".encode())
