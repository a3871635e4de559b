"""The process that drives a peer, with a peer that compares everything with everything."""

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from benchmarks.peers.protocol import Below, Embeddings, Peer, Place, Rows, blocks, folder_bytes
from benchmarks.peers.worker import Worker, read_rows, save_rows, serve

BASIS = np.eye(4, dtype=np.float32)
LOAD_BYTES = 64 << 20
"""What the toy needs for a moment to load."""


class Toy(Peer):
    """Exact, and so it has neither effort nor batches."""

    name = "toy"
    distributions = ("numpy",)
    has_effort = False

    def load(self, rows: Rows) -> None:
        self.rows = rows
        np.ones(LOAD_BYTES, dtype=np.uint8)

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> list[str]:
        order = np.argsort(-(self.rows.embeddings @ embedding), kind="stable")
        matching = [row for row in order if below is None or self.rows.numbers[row] < below.bound]
        return [self.rows.ids[row] for row in matching[:top_k]]


@pytest.fixture
def rows() -> Rows:
    return Rows(["a", "b", "c", "d"], BASIS, ["A", "B", "C", "D\u2028"], np.arange(4), "cosine")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: Rows) -> Worker:
    """One whose toy is open and loaded, and which knows four queries."""
    module = ModuleType("benchmarks.peers.toy")
    module.PEER = Toy  # type: ignore[attr-defined]  # that is what is added
    monkeypatch.setitem(sys.modules, module.__name__, module)
    save_rows(rows, tmp_path / "rows")
    np.save(tmp_path / "queries.npy", BASIS)
    made = Worker()
    for command in (
        {"command": "open", "peer": "toy", "folder": str(tmp_path)},
        {"command": "load", "rows": str(tmp_path / "rows")},
        {"command": "queries", "path": str(tmp_path / "queries.npy")},
    ):
        assert "error" not in made.answer(command)
    return made


def test_rows_that_differ_in_length_are_refused(rows: Rows) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Rows(rows.ids[:3], rows.embeddings, rows.texts, rows.numbers, "l2")


def test_rows_come_back_as_they_were_saved(rows: Rows, tmp_path: Path) -> None:
    save_rows(rows, tmp_path / "rows")
    read = read_rows(tmp_path / "rows")
    assert (read.ids, read.texts, read.metric, read.metadata()) == (rows.ids, rows.texts, rows.metric, rows.metadata())
    assert read.embeddings.dtype == np.float32
    np.testing.assert_array_equal(read.embeddings, rows.embeddings)


def test_blocks_cover_all_rows_once(rows: Rows) -> None:
    assert [id_ for part in blocks(rows, 3) for id_ in rows.ids[part]] == rows.ids


def test_a_folder_is_as_large_as_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"12345")
    assert folder_bytes(tmp_path) == 5


def test_a_place_without_postgresql_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give its URL"):
        _ = Place(None, tmp_path).url


def test_each_search_is_timed_and_gives_ids(worker: Worker) -> None:
    answer = worker.answer({"command": "search", "positions": [2, 0], "top_k": 1})
    assert answer["ids"] == [["c"], ["a"]]
    assert len(answer["ms"]) == 2
    assert all(ms > 0 for ms in answer["ms"])


def test_a_bound_becomes_the_filter(worker: Worker) -> None:
    answer = worker.answer({"command": "search", "positions": [3], "top_k": 4, "bound": 2})
    assert sorted(answer["ids"][0]) == ["a", "b"]


def test_batches_are_timed_as_a_whole(worker: Worker) -> None:
    answer = worker.answer({"command": "search_many", "positions": [0, 1, 2], "batch": 2, "top_k": 1})
    assert answer["ids"] == [["a"], ["b"], ["c"]]
    assert len(answer["ms"]) == 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak counts anew on Linux alone")
def test_the_peak_is_the_load_s_own(worker: Worker, tmp_path: Path) -> None:
    """What was in memory for a moment during the load is in it; what was there before, here or in a parent, is not."""
    np.ones(8 * LOAD_BYTES, dtype=np.uint8)
    answer = worker.answer({"command": "load", "rows": str(tmp_path / "rows")})
    assert LOAD_BYTES / 2 < answer["peak_rss_bytes"] - answer["rss_bytes"] < 3 * LOAD_BYTES


def test_opening_tells_what_the_peer_can_do(worker: Worker, tmp_path: Path) -> None:
    opened = worker.answer({"command": "open", "peer": "toy", "folder": str(tmp_path)})
    assert opened["versions"] == {"numpy": np.__version__}
    assert (opened["has_filters"], opened["has_effort"], opened["has_batches"]) == (True, False, False)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ({"command": "fly"}, "do_fly"),
        ({"command": "load", "rows": "/nowhere"}, "FileNotFoundError"),
        ({"command": "search", "positions": [0], "top_k": 1}, "no peer is open yet"),
    ],
)
def test_what_goes_wrong_is_told(command: dict[str, Any], words: str) -> None:
    assert words in Worker().answer(command)["error"]


def test_it_serves_line_by_line_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = io.StringIO(
        '{"command": "queries", "path": "/nowhere.npy"}\n{"command": "close"}\n{"command": "more"}\n'
    )
    answers = io.StringIO()
    serve(commands, answers)
    told = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert len(told) == 2
    assert all("error" in one for one in told)  # no file; no peer to close
