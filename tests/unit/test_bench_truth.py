"""The benchmarks' data sets and exact truth, against answers that can be worked out by hand or the slow way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import datasets, truth
from benchmarks.harness.datasets import DataSet, row_id
from benchmarks.harness.truth import recalls, truth_of


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def line() -> DataSet:
    """A hundred points on a line, 0 to 99, numbered by where they are; the queries stand at 0 and 99."""
    places = np.arange(100, dtype=np.float32)
    points = np.stack([places, np.zeros_like(places)], axis=1)
    return DataSet("line", points, points[[0, 99]], "l2", np.arange(100), 0)


def test_a_larger_set_begins_with_the_smaller_one() -> None:
    """Growth is measured on one set: its rows do not depend on how many are taken."""
    few, many = (datasets.made_up(rows, 16, 5, 3) for rows in (50, 10_050))
    assert np.array_equal(few.embeddings, many.embeddings[:50])
    assert few.rows().texts == many.rows().texts[:50]
    assert few.checksum == datasets.made_up(50, 16, 5, 3).checksum
    assert few.checksum != datasets.made_up(50, 16, 5, 4).checksum


def test_the_truth_is_what_the_slow_way_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, float32 candidates and float64 distances come to the same as one sort of everything."""
    monkeypatch.setattr(truth, "BLOCK_ROWS", 300)
    for metric in ("cosine", "l2"):
        data = replace(datasets.made_up(1_000, 24, 7, 1), metric=metric)
        bound = 400
        matching = data.embeddings[data.numbers < bound].astype(np.float64)
        for position, query in enumerate(data.queries.astype(np.float64)):
            if metric == "l2":
                slow = np.linalg.norm(matching - query, axis=1)
            else:
                lengths = np.linalg.norm(matching, axis=1) * np.linalg.norm(query)
                slow = 1 - matching @ query / lengths
            found = truth_of(data, bound).distances[position]
            assert found == pytest.approx(np.sort(slow)[:10], abs=1e-12)


def test_the_truth_comes_from_the_cache(line: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed once: the second time nothing is compared."""
    first = truth_of(line).distances
    monkeypatch.setattr(truth, "_computed", lambda *_: pytest.fail("computed again"))
    assert np.array_equal(truth_of(line).distances, first)


def test_recall_counts_nearest_rows_that_match(line: DataSet) -> None:
    """From 99 with the filter "below 50", rows 40 to 49 are right; 90 to 99 are nearer and do not match."""
    of_filter = truth_of(line, 50)
    right, wrong = ([row_id(row) for row in range(start, start + 10)] for start in (40, 90))
    assert recalls(line, of_filter, [1], [right]) == [1.0]
    assert recalls(line, of_filter, [1], [wrong]) == [0.0]
    assert recalls(line, of_filter, [1], [right[:5] + right[:5]]) == [0.5]
    assert recalls(line, of_filter, [1], [[]]) == [0.0]


def test_where_fewer_match_than_are_asked_for_those_are_all(line: DataSet) -> None:
    """Three rows match: finding them is everything."""
    few = truth_of(line, 3)
    assert few.top_k == 3
    assert recalls(line, few, [0], [[row_id(row) for row in (0, 1, 2)]]) == [1.0]


def test_related_filters_match_near_the_first_queries_and_far_from_the_last(line: DataSet) -> None:
    """Numbered by nearness to the first query: at 0, the filter "below 10" matches rows 0 to 9."""
    moved = datasets.related(line)
    assert np.flatnonzero(moved.numbers < 10).tolist() == list(range(10))
    assert moved.queries[:, 0].tolist() == [0, 99]


def test_a_file_that_is_not_the_one_that_is_meant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set is known by its SHA-256, not by its name."""
    np.savez(tmp_path / "mnist-784.npz", train=np.zeros((5, 2)), test=np.zeros((1, 2)))
    monkeypatch.setenv(datasets.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(SystemExit, match=r"mnist-784\.npz is not the file that is meant"):
        datasets.available(10, None, 0)
