"""Sealing and merging of the FAISS index: what searches see never depends on it."""

import logging
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.faiss import FaissIndex
from backends.faiss import index as index_module
from backends.faiss.compaction import MAX_SEGMENTS, next_job
from backends.faiss.making import made
from backends.memory import MemoryIndex
from backends.types import Change, IndexSpec
from tests.unit.faiss_indexes import IDENTITY, SPEC, batch, change, held, opened, queries, settled

IDS = st.lists(st.integers(0, 40), max_size=12, unique=True)
STEPS = st.lists(st.tuples(IDS, IDS, st.sampled_from(["", "", "settle", "save", "reopen"])), max_size=14)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, metric=st.sampled_from(["l2", "inner_product"]))
def test_it_answers_as_the_oracle_does(steps: list[tuple[list[int], list[int], str]], metric: str) -> None:
    """Upserts (also of ids that are there), deletes, seals, merges, restarts: hits as the exact index gives them."""
    spec = IndexSpec(dimension=8, metric=metric)  # type: ignore[arg-type]
    oracle = MemoryIndex(spec, IDENTITY)
    with tempfile.TemporaryDirectory() as folder:
        index = opened(Path(folder) / "it", spec, delta_rows=5)
        index.build([batch(range(10), spec)], 1)
        oracle.build([batch(range(10), spec)], 1)
        for sequence, (upserts, deletes, then) in enumerate(steps, start=2):
            news = [change(sequence, upserts, deletes, spec)]
            assert index.apply(news) == oracle.apply(news) == sequence
            _same_answers(index, oracle, spec)
            index = _then(then, index, Path(folder) / "it", spec)
            _same_answers(index, oracle, spec)
        index.close()


def _then(what: str, index: FaissIndex, folder: Path, spec: IndexSpec) -> FaissIndex:
    if what == "settle":
        settled()
    elif what:
        index.save()
    if what != "reopen":
        return index
    index.close()
    return opened(folder, spec, delta_rows=5)


def _same_answers(index: FaissIndex, oracle: MemoryIndex, spec: IndexSpec) -> None:
    assert held(index) == held(oracle)
    assert index.stats().count == oracle.stats().count
    allowed = np.arange(0, 41, 3)
    for given_ids in (None, allowed):
        ours = index.search(queries(2, spec), 7, allowed=given_ids)
        theirs = oracle.search(queries(2, spec), 7, allowed=given_ids)
        for mine, expected in zip(ours.ids, theirs.ids, strict=True):
            assert mine.tolist() == expected.tolist()
        for scores, exact in zip(ours.scores, theirs.scores, strict=True):
            assert scores == pytest.approx(exact, abs=1e-4, rel=1e-5)


def test_every_search_sees_one_moment(tmp_path: Path) -> None:
    """While a thread applies and others seal and merge, each search gives the exact hits of the number it reports."""
    index = opened(tmp_path, delta_rows=40)
    oracle = MemoryIndex(SPEC, IDENTITY)
    for each in (index, oracle):
        each.build([batch(range(100))], 0)
    changes = [change(n, range(100 + n * 10, 110 + n * 10), range(n * 8, n * 8 + 8)) for n in range(1, 61)]
    asked = queries(1)
    expected = {0: oracle.search(asked, 5).ids[0].tolist()}
    for each_change in changes:
        oracle.apply([each_change])
        expected[each_change.sequence] = oracle.search(asked, 5).ids[0].tolist()
    faults: list[object] = []

    def search() -> None:
        while not done.is_set():
            found = index.search(asked, 5)
            if found.ids[0].tolist() != expected[found.applied]:
                faults.append((found, expected[found.applied]))

    done = threading.Event()
    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for each_change in changes:
        index.apply([each_change])
    settled()
    done.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert index.search(asked, 5).ids[0].tolist() == expected[60]
    assert held(index) == held(oracle)
    index.close()


class _Held:
    """Lets the making of segments begin, and holds it until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        monkeypatch.setattr(index_module, "made", self._made)

    def _made(self, *args: object) -> object:
        self.begun.set()
        assert self.go.wait(30)
        return made(*args)  # type: ignore[arg-type]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> _Held:
    return _Held(monkeypatch)


def test_what_dies_while_the_delta_is_sealed_stays_dead(tmp_path: Path, slow: _Held) -> None:
    """Deletes and upserts that come while a seal runs hold after it, and the seal does not keep them waiting."""
    index = opened(tmp_path, delta_rows=20)
    index.build((), 0)
    index.apply([change(1, range(30))])
    assert slow.begun.wait(30)
    later = change(2, [3, 50], [7, 8])
    index.apply([later])
    assert index.stats().details["segments"] == 0
    slow.go.set()
    settled()
    assert index.stats().details["segments"] == 1
    assert held(index) == sorted({*range(30), 50} - {7, 8})
    assert index.search(later.upserts.embeddings[:1], 1).ids[0].tolist() == [3]
    index.close()


def test_what_dies_while_segments_are_merged_stays_dead(
    tmp_path: Path, slow: _Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same while a merge runs."""
    slow.go.set()
    index = opened(tmp_path, delta_rows=1_000)
    index.build([batch(range(100))], 0)
    slow.begun.clear()
    slow.go.clear()
    index.apply([change(1, [], range(40))])
    assert slow.begun.wait(30)
    index.apply([change(2, [60, 200], [50, 51])])
    slow.go.set()
    settled()
    assert held(index) == sorted({*range(40, 100), 200} - {50, 51})
    assert index.stats().details["dead_share"] < 0.1
    assert index.stats().count == 59
    index.close()


def test_dead_rows_are_merged_away(tmp_path: Path) -> None:
    """When more than 30 of 100 rows are dead, the segments are made anew without them."""
    index = opened(tmp_path)
    index.build([batch(range(1_000))], 0)
    index.apply([change(1, [], range(300))])
    settled()
    assert index.stats().details["dead_share"] == 0.3
    index.apply([change(2, [], [300])])
    settled()
    assert (index.stats().details["dead_share"], index.stats().count) == (0.0, 699)
    index.close()


def test_segments_stay_few_and_the_large_one_is_left_alone(tmp_path: Path) -> None:
    """Sealing again and again leaves at most eight segments, and does not rewrite the large first one each time."""
    index = opened(tmp_path, delta_rows=20)
    index.build([batch(range(5_000))], 0)
    first = {path.name for path in tmp_path.glob("*.faiss")}
    for sequence in range(1, 25):
        index.apply([change(sequence, range(5_000 + sequence * 20, 5_020 + sequence * 20))])
        settled()
        assert index.stats().details["segments"] <= MAX_SEGMENTS
    assert index.stats().count == 5_000 + 24 * 20
    index.save()
    assert first <= {path.name for path in tmp_path.glob("*.faiss")}
    index.close()


def test_merging_lossy_segments_loses_nothing(tmp_path: Path) -> None:
    """A merge of IVF reads the embeddings kept beside, so that the next one starts from what was given."""
    rows = batch(range(0, 24_000, 2))
    index = opened(tmp_path, kind="ivf_sq8")
    index.build([rows], 0)
    index.apply([change(1, [], rows.ids[:1_000])])
    assert next_job(index._usable(), 1) is None
    index.apply([change(2, [], rows.ids[1_000:4_000])])
    settled()
    (segment,) = index._usable().segments
    assert len(segment.ids) == 8_000
    assert (segment.embeddings(np.arange(8_000)) == rows.embeddings[4_000:]).all()
    index.close()


def test_a_process_that_does_not_own_the_folder_never_writes(tmp_path: Path) -> None:
    """It applies in its memory, past every limit, and the folder stays as it is."""
    opened(tmp_path).build([batch(range(100))], 0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    reader = opened(tmp_path, delta_rows=10)
    reader.apply([change(1, range(200, 300), range(80))])
    settled()
    reader.reload()
    assert reader.stats().details["delta_rows"] == 100
    assert held(reader) == [*range(80, 100), *range(200, 300)]
    reader.close()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_closing_does_not_wait_for_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge is given up between two slices, and its unfinished files are not part of any snapshot."""
    index = opened(tmp_path, delta_rows=1_000)
    index.build([batch(range(3_000))], 0)
    index.save()
    monkeypatch.setattr("backends.faiss.making.ROWS_AT_ONCE", 1)
    monkeypatch.setattr(
        "backends.faiss.segment.Segment.embeddings", lambda self, rows: threading.Event().wait(0.1) or np.zeros((1, 8))
    )
    index.apply([change(1, [], range(1_000))])
    index.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "faiss-compaction"]
    assert held(opened(tmp_path)) == list(range(3_000))


def test_a_failed_merge_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk costs no answer: the log says so, and the next change starts another try."""
    index = opened(tmp_path, delta_rows=10)
    index.build((), 0)

    def full(*args: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(index_module, "write_segment", full)
        index.apply([change(1, range(10))])
        settled()
    assert "tried again" in caplog.text
    assert len(index.search(queries(1), 10).ids[0]) == 10
    index.apply([Change(sequence=2, upserts=batch([]), deletes=np.array([4]))])
    index.apply([change(3, [77])])
    settled()
    assert index.stats().details["segments"] == 1
    assert held(index) == sorted({*range(10), 77} - {4})
    index.close()
