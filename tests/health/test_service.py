"""What the service needs: each check sees a fault that was really made, and sees it mended."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import retrieval
from backends import searching
from backends.corpus.indexes import begin_index, forget_index
from backends.corpus.writing import forget_changes
from ops.health import service
from retrieval.config import load
from tests.acceptance.command import ROOT
from tests.health.conftest import Patient, eventually, put
from tests.health.test_hnsw import database_setting


def test_searches_that_wait_for_a_connection(small: Patient) -> None:
    """Callers that wait for the pool are seen while they wait."""
    with small.reopened(pool_size=1) as other:
        assert other.corpus_check(service.pool_saturation).level == "ok"
        with other.rag.database.connection():
            waiting = [threading.Thread(target=other.rag.ping) for _ in range(2)]
            for thread in waiting:
                thread.start()
            eventually(lambda: other.corpus_check(service.pool_saturation).value == 2)
            found = other.corpus_check(service.pool_saturation)
            assert (found.level, found.detail) == ("crit", "2 wait for one of 1 connections")
        for thread in waiting:
            thread.join()
        assert other.corpus_check(service.pool_saturation).level == "ok"


def test_indexes_that_outgrow_the_memory(patient: Patient) -> None:
    """HNSW indexes larger than PostgreSQL's cache are a warning."""
    with database_setting(patient, "effective_cache_size", "64kB"), patient.reopened() as other:
        found = other.corpus_check(service.cache_size)
        assert found.level == "warn"
        assert found.value is not None
        assert found.value > 1
    with patient.reopened() as other:
        assert other.corpus_check(service.cache_size).level == "ok"


def test_no_room_to_build_the_largest_index_again(small: Patient, tmp_path: Path) -> None:
    """An index in files that would not fit on its disk a second time is a warning."""
    index = tmp_path / "ragstone-1-1-1"
    index.mkdir()
    with small.reopened(index_folder=str(tmp_path)) as other:
        assert room(other)["index_disk"].level == "ok"
        free_bytes = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
        with (index / "segment").open("wb") as sparse:
            sparse.truncate(min(2 * free_bytes, 8 << 40))
        found = room(other)["index_disk"]
        assert found.level == "warn"
        assert "room for the largest index" in found.threshold
        (index / "segment").unlink()
        assert room(other)["index_disk"].level == "ok"


def test_the_disk_of_an_embedded_server(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PostgreSQL is our own, the disk of its data folder is watched too."""
    assert "data_disk" not in room(small)
    data = Path(small.sql("SHOW data_directory")[0][0]).parent
    if not (data / "postgres").is_dir():
        pytest.skip("the tests' PostgreSQL is not embedded")
    with retrieval.open(data, settings=load(embedding_model="hashing")) as rag:
        embedded = Patient(rag, small.url, small.collection)
        assert room(embedded)["data_disk"].level == "ok"
        monkeypatch.setattr(service, "FREE_CRIT", 1.0)
        found = room(embedded)["data_disk"]
        assert (found.level, found.detail.endswith(f" are free in {data}")) == ("crit", True)


def test_a_disk_that_is_full(small: Patient, tmp_path: Path) -> None:
    """The command itself finds a small disk full, and well again when there is room."""
    script = tmp_path / "script"
    script.write_text(
        f'mount -t tmpfs -o size=1m tmpfs "{tmp_path}/disk" || exit 77\n'
        f'head -c 1000000 /dev/zero > "{tmp_path}/disk/filler"\n'
        f'{sys.executable} -m ops.cli health --json > "{tmp_path}/full"\n'
        f'rm "{tmp_path}/disk/filler"\n'
        f'{sys.executable} -m ops.cli health --json > "{tmp_path}/well"\nexit 0\n'
    )
    (tmp_path / "disk").mkdir()
    own_mounts = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "RAGSTONE_DATA": small.url,
        "RAGSTONE_INDEX_FOLDER": str(tmp_path / "disk"),
        "RAGSTONE_EMBEDDING_MODEL": "hashing",
    }
    try:
        done = subprocess.run([*own_mounts, "sh", str(script)], env=environment, capture_output=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("there is no unshare here, to mount a small disk")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode()}")
    levels = [
        {check["name"]: check["level"] for check in json.loads((tmp_path / file).read_text())["checks"]}
        for file in ("full", "well")
    ]
    assert [level["index_disk"] for level in levels] == ["crit", "ok"]


def test_filtered_searches_that_come_back_short(patient: Patient) -> None:
    """Where chunks match and are not found, it is critical; when they can be found again, it is not."""
    assert patient.check(service.filtered_searches).level == "ok"
    patient.sql(f"CREATE TABLE ragstone.set_aside AS SELECT * FROM {patient.embedding} OFFSET 60")
    patient.sql(
        f"DELETE FROM {patient.embedding} e USING ragstone.set_aside s WHERE s.chunk_id = e.chunk_id",
    )
    found = patient.check(service.filtered_searches)
    assert found.level == "crit"
    assert found.detail.startswith("of 2 drawn, 1 came back short")
    patient.sql(f"INSERT INTO {patient.embedding} SELECT * FROM ragstone.set_aside")
    patient.sql("DROP TABLE ragstone.set_aside")
    assert patient.check(service.filtered_searches).level == "ok"


def test_filtered_searches_that_take_too_long(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that is ended by its budget, here since it waits for a lock, is a warning."""
    monkeypatch.setattr(searching, "compare_settled", lambda *_, **__: None)  # as if something was written since
    with patient.reopened(statement_budget_ms=300) as other:
        with patient.transaction() as blocking:
            blocking.execute("LOCK TABLE ragstone.change")
            found = other.check(service.filtered_searches)
            assert found.level == "warn"
            assert "2 took longer than statement_budget_ms" in found.detail  # each looks for what came later
        assert other.check(service.filtered_searches).level == "ok"


@pytest.mark.parametrize("efforts", [{"10%": 0}, {"all": 1_000_000}, {"a few": 40}], ids=str)
def test_efforts_that_make_no_sense(small: Patient, efforts: dict[str, int]) -> None:
    """An effort out of range, or for a band that is none, is a warning."""
    setting = "UPDATE ragstone.collection SET efforts = %s WHERE id = %s"
    small.sql(setting, json.dumps({"pgvector": {"all": 40, "<0.1%": 1_000}}), small.collection.id)
    assert small.check(service.tuned_efforts).level == "ok"
    small.sql(setting, json.dumps({"pgvector": efforts}), small.collection.id)
    found = small.check(service.tuned_efforts)
    (band, effort), *_ = efforts.items()
    assert (found.level, found.detail) == ("warn", f"{effort} on pgvector for {band!r}")
    small.sql(setting, "{}", small.collection.id)
    assert small.check(service.tuned_efforts).level == "ok"


def test_changes_that_are_kept_for_an_index_that_never_comes(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index whose build was abandoned keeps all changes; when it is given up, they are forgotten."""
    monkeypatch.setattr(service, "CHANGES_WARN", 5)
    database, collection_id = small.rag.database, small.collection.id
    forget_changes(database, collection_id)
    assert small.check(service.change_log).level == "ok"
    abandoned = begin_index(database, collection_id, "faiss", follows=True)
    for number in range(6):
        put(small.collection, range(number, number + 1), seed=1)
    forget_changes(database, collection_id)
    found = small.check(service.change_log)
    assert (found.level, found.value) == ("warn", 6)
    assert found.detail == "6 changes and 6 deletes are kept for faiss"
    forget_index(database, abandoned)
    forget_changes(database, collection_id)
    assert small.check(service.change_log).level == "ok"


def test_recall_below_its_target(small: Patient) -> None:
    """Recall that was measured on searches of users, and is surely below the target, is critical."""

    def recalls() -> dict[str | None, Any]:
        found = small.checks(service.recall) | {}
        return {check.collection: check for check in found.values()}

    measured = (
        "INSERT INTO ragstone.captured_query (collection_id, backend, embedding, top_k, ids, scores, exact, sequence, "
        "search_ms, measured_at, recall, band) "
        "SELECT %s, 'pgvector', '', 10, '{}', '{}', false, 1, 1, now(), %s, 'all' FROM generate_series(1, 60)"
    )
    name = small.collection.name
    assert name not in recalls()
    small.sql(measured, small.collection.id, 0.7)
    found = recalls()[name]
    assert (found.level, found.value, found.backend) == ("crit", pytest.approx(0.7), "pgvector")
    assert found.threshold == "at least 0.95"
    small.sql("DELETE FROM ragstone.captured_query WHERE collection_id = %s", small.collection.id)
    small.sql(measured, small.collection.id, 1.0)
    assert recalls()[name].level == "ok"


def room(patient: Patient) -> dict[str, Any]:
    """What is found of disks, by name."""
    from ops.health.check import Subject

    return {check.name: check for check in service.disk_space(Subject(rag=patient.rag))}
