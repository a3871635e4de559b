"""Workers as the harness drives them: real processes, with plain FAISS, which needs no PostgreSQL."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import datasets
from benchmarks.harness.truth import recalls, truth_of
from benchmarks.harness.workers import WorkerFailed, WorkerProcess, database_url
from benchmarks.peers.worker import save_rows

HERE = Path(sys.executable)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> datasets.DataSet:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return datasets.made_up(500, 16, 20, 1)


def test_a_worker_loads_and_searches(small: datasets.DataSet, tmp_path: Path) -> None:
    """What it finds, one by one, in batches and with a filter, is the truth; each search has its time."""
    save_rows(small.rows(), tmp_path / "rows")
    np.save(tmp_path / "rows-queries.npy", small.queries)
    asked = list(range(20))
    with WorkerProcess("plain_faiss", HERE, tmp_path / "peer", None) as worker:
        loaded = worker.load(tmp_path / "rows")
        one_by_one = worker.search(asked, 200, None)
        together = worker.search_many(asked, 10, 200)
        filtered = worker.search(asked, 500, 250)
    assert loaded["load_s"] > 0
    assert len(one_by_one["ms"]) == 20
    assert len(together["ms"]) == 2
    assert np.mean(recalls(small, truth_of(small), asked, one_by_one["ids"])) > 0.98
    assert one_by_one["ids"] == together["ids"]
    assert np.mean(recalls(small, truth_of(small, 250), asked, filtered["ids"])) > 0.98


def test_a_peer_that_does_not_open_says_why(tmp_path: Path) -> None:
    """The words of the failure name the peer and what went wrong in its process."""
    with pytest.raises(WorkerFailed, match=r"raw_tuned at open: .*needs a PostgreSQL"):
        WorkerProcess("raw_tuned", HERE, tmp_path / "peer", None)


def test_a_process_that_ends_is_told_of(tmp_path: Path) -> None:
    """Python that cannot find the worker ends at once: the failure has its last words."""
    with pytest.raises(WorkerFailed, match="the process ended"):
        WorkerProcess("plain_faiss", Path("/bin/false"), tmp_path / "peer", None)


def test_a_database_is_named_within_any_url() -> None:
    """Sockets and hosts alike; what comes after the question mark stays."""
    assert database_url("postgresql://u@/postgres?host=%2Ftmp&port=1", "b") == "postgresql://u@/b?host=%2Ftmp&port=1"
    assert database_url("postgresql://u:p@host:5432/main", "b") == "postgresql://u:p@host:5432/b"
