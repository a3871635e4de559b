"""Searches of the FAISS index: full answers and recall, whatever is dead and whatever alone is allowed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from backends.errors import IndexUnavailable
from backends.faiss.library import at_most_threads, faiss
from backends.types import Batch, Change, IndexSpec
from backends.vectors import exact_scores
from tests.unit.faiss_indexes import batch, change, held, opened, queries, recall

ROWS = 12_000
WIDE = IndexSpec(dimension=16, metric="cosine")
KINDS = ["flat", "hnsw", "ivf_sq8", "ivf_pq"]


@pytest.fixture(scope="module")
def rows() -> Batch:
    """12,000 rows, enough that every kind is itself."""
    return batch(np.arange(ROWS) * 7 + 3, WIDE)


def test_an_index_that_was_never_built(tmp_path: Path) -> None:
    """It says that it is not ready, and searches and changes say what to do; then it can be built, empty."""
    index = opened(tmp_path / "none")
    assert (index.stats().ready, index.stats().applied, index.stats().count) == (False, 0, 0)
    for use in (lambda: index.search(queries(), 5), lambda: index.apply([change(1, [1])]), index.save):
        with pytest.raises(IndexUnavailable, match="rebuild"):
            use()
    index.build((), 0)
    assert (index.stats().ready, index.stats().count) == (True, 0)
    assert [len(ids) for ids in index.search(queries(), 5).ids] == [0, 0, 0]


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
@pytest.mark.parametrize("precision", ["half", "single"])
def test_small_indexes_are_exact(tmp_path: Path, metric: str, precision: str) -> None:
    """In delta and segments, and for many queries at once, ids and scores are those of the metric."""
    spec = IndexSpec(dimension=8, metric=metric, precision=precision)  # type: ignore[arg-type]
    index = opened(tmp_path, spec)
    first, second = batch(range(300), spec), batch(range(300, 400), spec, seed=1)
    index.build([first], 1)
    index.apply([Change(sequence=2, upserts=second, deletes=np.array([5, 6]))])
    embeddings = np.delete(np.concatenate([first.embeddings, second.embeddings]), [5, 6], axis=0)
    ids = np.delete(np.concatenate([first.ids, second.ids]), [5, 6])
    asked = np.concatenate([queries(30, spec), embeddings[:1]])
    found = index.search(asked, 10)
    for query, found_ids, scores in zip(asked, found.ids, found.scores, strict=True):
        truth = exact_scores(query, embeddings, spec)
        # FAISS chooses by the inner product, and under cosine rounding left lengths that are off 1 by up to 2 ** -11.
        assert scores == pytest.approx(np.sort(truth)[::-1][:10], abs=1e-3 if metric == "cosine" else 1e-4, rel=1e-5)
        assert truth[np.searchsorted(ids, found_ids)] == pytest.approx(scores, abs=1e-4, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_and_full_answers_after_most_rows_are_deleted(tmp_path: Path, rows: Batch, kind: str) -> None:
    """With 95 of 100 rows dead, and before anything is merged, every hit comes and recall is 0.95 or more."""
    opened(tmp_path, WIDE, kind=kind).build([rows], 1)
    index = opened(tmp_path, WIDE, kind=kind)  # does not own the folder, so it never merges
    order = np.random.default_rng(1).permutation(rows.ids)
    asked = queries(20, WIDE)
    for dead in (0, ROWS // 4, ROWS // 2, ROWS * 9 // 10, ROWS * 95 // 100):
        index.apply([Change(sequence=2 + dead, upserts=batch([], WIDE), deletes=order[:dead])])
        found = index.search(asked, 100).ids
        assert {len(ids) for ids in found} == {100}
        assert not set(order[:dead].tolist()) & {int(id_) for ids in found for id_ in ids}
        assert _first(found, rows, asked, order[dead:]) >= 0.95, (kind, dead)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_allowed_is_proposed_and_all_that_is_asked_for(tmp_path: Path, rows: Batch, kind: str) -> None:
    """From one allowed id to nearly all: min(candidates, allowed and alive) hits, with recall."""
    index = opened(tmp_path, WIDE, kind=kind)
    index.build([rows], 1)
    index.apply([Change(sequence=2, upserts=batch([1, 2], WIDE, seed=5), deletes=rows.ids[:10])])
    asked = queries(20, WIDE)
    shuffled = np.random.default_rng(2).permutation(rows.ids[10:])
    for count in (1, 30, 300, 6_000, 9_000):
        allowed = np.sort(np.concatenate([shuffled[:count], rows.ids[:5], [8_000_000]]))
        found = index.search(asked, 100, allowed=allowed).ids
        assert {len(ids) for ids in found} == {min(100, count)}
        assert set(np.concatenate(found).tolist()) <= set(shuffled[:count].tolist())
        assert _first(found, rows, asked, shuffled[:count]) >= 0.95, (kind, count)
    assert [ids.tolist() for ids in index.search(asked[:1], 9, allowed=np.array([2, 8_000_000])).ids] == [[2]]
    assert [ids.tolist() for ids in index.search(asked[:1], 9, allowed=np.array([], np.int64)).ids] == [[]]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_can_be_asked_for(tmp_path: Path, rows: Batch, kind: str) -> None:
    """Asked for more than there is, every kind gives each row once, whatever its effort."""
    index = opened(tmp_path, WIDE, kind=kind)
    index.build([rows], 1)
    found = index.search(queries(1, WIDE), ROWS + 5, effort=1)
    assert sorted(found.ids[0].tolist()) == rows.ids.tolist()
    assert (np.diff(found.scores[0]) <= 0).all()


def test_many_equal_rows_do_not_hide_others(tmp_path: Path) -> None:
    """A graph full of copies of one row, which HNSW walks badly, still gives every hit."""
    rows = batch(range(3_000), WIDE)
    rows.embeddings[:2_990] = rows.embeddings[0]
    index = opened(tmp_path, WIDE, kind="hnsw")
    index.build([rows], 1)
    assert sorted(index.search(rows.embeddings[:1], 3_000).ids[0].tolist()) == list(range(3_000))


def test_more_effort_finds_more(tmp_path: Path, rows: Batch) -> None:
    """The effort of a call reaches FAISS: reading one list of IVF finds less than reading many."""
    index = opened(tmp_path, WIDE, kind="ivf_sq8")
    index.build([rows], 1)
    asked = queries(50, WIDE)
    one, many = (recall(index.search(asked, 10, effort=n).ids, rows, asked, WIDE, rows.ids) for n in (1, 64))
    assert one < many - 0.1


def test_a_search_leaves_the_caller_s_threads_alone(tmp_path: Path, rows: Batch) -> None:
    """One query runs in one thread, and what the calling thread had set for FAISS is set again afterwards."""
    index = opened(tmp_path, WIDE)
    index.build([rows], 1)
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        index.search(queries(1, WIDE), 5)
        assert faiss.omp_get_max_threads() == 3
        with at_most_threads(1):
            assert faiss.omp_get_max_threads() == 1
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["half", "single"])
def test_a_batch_finds_what_its_queries_find_alone(tmp_path: Path, kind: str, precision: str) -> None:
    """The same ids and the same scores to the last bit, from segments with dead rows and the delta, in any threads."""
    spec = IndexSpec(dimension=16, metric="l2", precision=precision)  # type: ignore[arg-type]
    opened(tmp_path, spec, kind=kind).build([batch(range(ROWS), spec)], 1)
    index = opened(tmp_path, spec, kind=kind)  # does not own the folder, so it never merges
    asked = queries(64, spec)
    for deletes, allowed in (([], None), (range(ROWS // 3), None), ([], np.arange(ROWS // 2, ROWS))):
        number = index.stats().applied + 1
        index.apply([Change(sequence=number, upserts=batch([ROWS + number], spec), deletes=np.array(deletes, int))])
        alone = [index.search(query[None], 20, effort=8, allowed=allowed) for query in asked]
        for size in (2, 16, 20, 64):
            found = index.search(asked[:size], 20, effort=8, allowed=allowed)
            for position in range(size):
                np.testing.assert_array_equal(found.ids[position], alone[position].ids[0])
                np.testing.assert_array_equal(found.scores[position], alone[position].scores[0])


def test_threads_may_search_at_once(tmp_path: Path, rows: Batch) -> None:
    """Batches from several threads at a time find what they find one after the other."""
    index = opened(tmp_path, WIDE, kind="hnsw")
    index.build([rows], 1)
    asked = [queries(size, WIDE, seed=size) for size in (1, 7, 32, 64)]
    expected = [[ids.tolist() for ids in index.search(some, 20).ids] for some in asked]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            found = pool.map(lambda some: [ids.tolist() for ids in index.search(some, 20).ids], asked * 4)
            assert list(found) == expected * 4


def test_no_queries_no_answers(tmp_path: Path) -> None:
    """An empty batch of queries gives an empty batch of answers."""
    index = opened(tmp_path)
    index.build([batch(range(5))], 1)
    assert index.search(queries(1)[:0], 5).ids == []


def test_rows_come_in_any_order(tmp_path: Path) -> None:
    """A build sorts what comes: ids need not ascend, within or across batches."""
    ids = np.random.default_rng(3).permutation(2_000) * 3
    rows = batch(ids)
    index = opened(tmp_path)
    parts = [slice(start, start + 300) for start in range(0, 2_000, 300)]
    index.build([Batch(ids=ids[p], embeddings=rows.embeddings[p], attributes=[{}] * len(ids[p])) for p in parts], 4)
    assert held(index) == sorted(ids.tolist())
    for position in (0, 700, 1_999):
        assert index.search(rows.embeddings[position : position + 1], 1).ids[0].tolist() == [ids[position]]


def test_one_call_with_many_changes(tmp_path: Path) -> None:
    """Changes given together come to what they come to one by one: the last that is said of an id holds."""
    index = opened(tmp_path)
    index.build([batch(range(10))], 1)
    changes = [change(2, [20, 21, 22], [0]), change(3, [20], [1, 21]), change(4, [21], [22]), change(5, [], [20, 30])]
    assert index.apply(changes) == index.apply(changes) == index.apply(changes[:2]) == 5
    assert held(index) == [2, 3, 4, 5, 6, 7, 8, 9, 21]
    assert index.search(changes[2].upserts.embeddings, 1).scores[0].tolist() == [0.0]


def _first(found: list[np.ndarray], rows: Batch, asked: np.ndarray, alive: np.ndarray) -> float:
    """Recall of the ten nearest among the hundred proposed: the corpus scores those again."""
    truth = []
    chosen = np.isin(rows.ids, alive)
    for query, proposed in zip(asked, found, strict=True):
        best = rows.ids[chosen][np.argsort(-exact_scores(query, rows.embeddings[chosen], WIDE))[:10]]
        truth.append(len(np.intersect1d(best, proposed)) / len(best))
    return float(np.mean(truth))
