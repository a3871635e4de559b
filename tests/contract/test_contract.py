"""What every vector index must do. An adapter brings one fixture; none of these may be overridden."""

import threading

import numpy as np
import pytest

from backends.corpus.following import changes_after, rebuild
from backends.corpus.writing import write
from backends.filters import parse
from backends.vectors import exact_scores, prepare
from tests.contract.conftest import Subject
from tests.corpora import TAIL_LIMIT, put, random_embeddings

IDS = [f"d{position:03d}" for position in range(200)]


def _query(subject: Subject, seed: int = 9) -> np.ndarray:
    return prepare(random_embeddings(1, 8, seed), subject.collection.spec)


def test_an_empty_index_proposes_nothing(subject: Subject) -> None:
    """No filler ids: an empty index gives empty arrays, one for each query."""
    found = subject.index.search(np.concatenate([_query(subject), _query(subject, 10)]), 5)
    assert [len(ids) for ids in found.ids] == [0, 0]
    assert [len(scores) for scores in found.scores] == [0, 0]


def test_candidates_come_nearest_first_with_right_types(subject: Subject) -> None:
    """Ids are int64 and distinct, scores float32 and falling, no more than were asked for."""
    subject.put(IDS, random_embeddings(200, 8))
    found = subject.index.search(_query(subject), 20)
    assert found.ids[0].dtype == np.int64
    assert found.scores[0].dtype == np.float32
    assert len(set(found.ids[0].tolist())) == len(found.ids[0]) == 20
    assert (np.diff(found.scores[0]) <= 1e-6).all()


def test_asking_for_more_than_there_is_gives_what_there_is(subject: Subject) -> None:
    """Three chunks, fifty asked for: three."""
    subject.put(IDS[:3], random_embeddings(3, 8))
    assert len(subject.index.search(_query(subject), 50).ids[0]) == 3


def test_scores_are_higher_for_nearer_and_mean_the_metric(subject: Subject) -> None:
    """The best score of an index is the metric's own value, worked out in float64."""
    embeddings = random_embeddings(50, 8)
    subject.put(IDS[:50], embeddings)
    query = _query(subject)
    truth = exact_scores(query[0], prepare(embeddings, subject.collection.spec), subject.collection.spec)
    assert subject.index.search(query, 1).scores[0][0] == pytest.approx(truth.max(), abs=1e-4)


def test_the_callers_arrays_are_left_alone(subject: Subject) -> None:
    """A search changes neither the query nor what it returned before."""
    subject.put(IDS[:50], random_embeddings(50, 8))
    query = _query(subject)
    before = query.copy()
    first = subject.index.search(query, 5)
    kept = first.ids[0].copy()
    subject.index.search(_query(subject, 11), 5)
    assert (query == before).all()
    assert (first.ids[0] == kept).all()


def test_applied_is_the_number_of_the_last_change(subject: Subject) -> None:
    """After following, an index has applied all that the corpus has."""
    subject.put(IDS[:5], random_embeddings(5, 8))
    subject.put(IDS[:5], random_embeddings(5, 8, seed=1))
    assert subject.index.search(_query(subject), 1).applied == 2
    assert subject.index.stats().applied == 2


def test_applying_a_change_again_changes_nothing(subject: Subject) -> None:
    """Applying is idempotent: the same changes twice give the same index."""
    subject.put(IDS[:20], random_embeddings(20, 8))
    changes = changes_after(subject.database, subject.collection, 0)
    before = subject.index.stats().count
    assert subject.index.apply(changes) == subject.index.apply(changes) == 1
    assert subject.index.stats().count == before == 20


def test_a_deleted_chunk_is_not_proposed(subject: Subject) -> None:
    """After a delete is applied, its chunk is gone from the index."""
    subject.put(IDS[:10], random_embeddings(10, 8))
    write(subject.database, subject.collection, lambda change: change.delete_documents(IDS[:9]), TAIL_LIMIT)
    subject.follow()
    assert len(subject.index.search(_query(subject), 10).ids[0]) == 1
    assert subject.index.stats().count == 1


def test_building_again_comes_to_the_same(subject: Subject) -> None:
    """An index can be thrown away and built again from the corpus."""
    subject.put(IDS, random_embeddings(200, 8))
    query = _query(subject)
    before = subject.index.search(query, 10).ids[0].tolist()
    subject.index.drop()
    rebuild(subject.database, subject.collection, subject.index)
    after = subject.index.search(query, 10).ids[0].tolist()
    assert len(set(before) & set(after)) >= 9


def test_an_acknowledged_write_is_found_by_the_next_search(subject: Subject) -> None:
    """Also before the index has followed: the corpus adds the tail."""
    subject.put(IDS[:50], random_embeddings(50, 8))
    query = _query(subject)
    rows = prepare(query * (1 if subject.collection.spec.metric != "inner_product" else 50), subject.collection.spec)
    put(subject.database, subject.collection, ["new"], rows)
    assert subject.searcher.search(query[0], 1).hits[0].id == "new"


def test_a_deleted_document_never_comes_back(subject: Subject) -> None:
    """Also while the index still proposes its chunk: the corpus drops it."""
    subject.put(IDS[:50], random_embeddings(50, 8))
    query = _query(subject)
    best = subject.searcher.search(query[0], 1).hits[0].id
    write(subject.database, subject.collection, lambda change: change.delete_documents([best]), TAIL_LIMIT)
    hits = subject.searcher.search(query[0], 49).hits
    assert len(hits) == 49
    assert best not in {hit.id for hit in hits}


def test_top_k_hits_whenever_top_k_match(subject: Subject) -> None:
    """A filter that one in fifty passes still gives every hit that there is."""
    subject.put(IDS, random_embeddings(200, 8), [{"rare": position % 50 == 0} for position in range(200)])
    hits = subject.searcher.search(_query(subject)[0], 4, parse({"rare": True})).hits
    assert sorted(hit.id for hit in hits) == ["d000", "d050", "d100", "d150"]


def test_ties_are_ordered_by_id_bytewise(subject: Subject) -> None:
    """Twelve documents with one embedding come in the order of their ids, capitals first."""
    ids = ["b", "a10", "a2", "B", "é", "a", "Z", "zz", "~", "0", "a#1", "ä"]
    subject.put(ids, np.ones((12, 8), np.float32))
    hits = subject.searcher.search(prepare(np.ones((1, 8)), subject.collection.spec)[0], 12, exact=True).hits
    assert [hit.id for hit in hits] == sorted(ids, key=str.encode)


def test_searches_and_writes_at_once(subject: Subject) -> None:
    """Six threads search while one writes: each search gives whole, distinct hits."""
    subject.put(IDS, random_embeddings(200, 8))
    query, faults = _query(subject)[0], []

    def search() -> None:
        for _ in range(10):
            found = [hit.id for hit in subject.searcher.search(query, 10).hits]
            if len(set(found)) != 10:
                faults.append(found)

    threads = [threading.Thread(target=search) for _ in range(6)]
    for thread in threads:
        thread.start()
    for turn in range(5):
        subject.put(IDS[:20], random_embeddings(20, 8, seed=turn))
    for thread in threads:
        thread.join()
    assert not faults
