"""The Weaviate adapter against a server that behaves."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from backends.errors import IndexUnavailable
from backends.filters import parse
from backends.types import Batch, IndexIdentity, IndexSpec, Metric
from backends.vectors import exact_scores
from backends.weaviate import WeaviateIndex, messages
from tests.backends.weaviate_subject import IDENTITY, batch, change, held, opened, proposed
from tests.fakes.weaviate_server import FakeWeaviate, weaviate_server


@pytest.fixture
def server() -> Iterator[FakeWeaviate]:
    with weaviate_server() as running:
        yield running


@pytest.fixture
def index(server: FakeWeaviate) -> Iterator[WeaviateIndex]:
    with opened(server) as made:
        yield made


def test_making_one_reaches_nothing() -> None:
    """The constructor does not connect: where nothing listens, the first call says so."""
    with weaviate_server() as server:
        pass
    with opened(server) as index, pytest.raises(IndexUnavailable, match="RAGSTONE_WEAVIATE_URL"):
        index.ping()


def test_a_build_replaces_what_was_there(index: WeaviateIndex) -> None:
    """What an earlier build left is gone, and the number is the new one."""
    index.build([batch(range(1, 41))], 3)
    index.build([batch(range(100, 105)), batch(range(200, 205))], 9)
    assert held(index) == [*range(100, 105), *range(200, 205)]
    stats = index.stats()
    assert (stats.count, stats.applied, stats.ready) == (10, 9, True)


def test_large_ids_come_back_whole(index: WeaviateIndex) -> None:
    """Ids of 50 bits and more are int64 all the way."""
    ids = [1, 2**50 + 1, 2**63 - 1]
    index.build([batch(ids)], 1)
    assert held(index) == ids
    assert [proposed(index, id_) for id_ in ids] == [[id_] for id_ in ids]


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_scores_are_the_metrics_own(server: FakeWeaviate, metric: Metric) -> None:
    """Every score is the one worked out in float64, in falling order."""
    spec = IndexSpec(dimension=8, metric=metric)
    rows, query = batch(range(1, 31), spec), batch([99], spec).embeddings
    with opened(server, spec) as index:
        index.build([rows], 1)
        found = index.search(query, 30)
    truth = dict(zip(rows.ids.tolist(), exact_scores(query[0], rows.embeddings, spec).tolist(), strict=True))
    assert found.ids[0].tolist() == sorted(truth, key=lambda id_: -truth[id_])
    assert found.scores[0] == pytest.approx([truth[id_] for id_ in found.ids[0].tolist()], abs=1e-5)


def test_no_more_is_asked_for_than_weaviate_gives(index: WeaviateIndex) -> None:
    """More candidates than QUERY_MAXIMUM_RESULTS are no error: what there is comes."""
    index.build([batch(range(1, 13))], 1)
    assert len(proposed(index, 1, candidates=messages.MAX_RESULTS + 1)) == 12


def test_changes_come_to_their_last_writes(index: WeaviateIndex) -> None:
    """Many changes at once leave what applying one after the other would."""
    index.build([batch([1, 2, 3])], 1)
    moved = replace(batch([5]), embeddings=batch([50]).embeddings)
    changes = [
        change(2, batch([4, 5])),
        change(3, moved, deletes=[1, 4]),
        change(4, batch([4]), deletes=[2]),
    ]
    assert index.apply(changes) == 4
    assert held(index) == [3, 4, 5]
    assert proposed(index, 50) == [5]


def test_what_is_applied_is_not_applied_again(index: WeaviateIndex) -> None:
    """A change at or below the marker's number does nothing, so an old delete hits no newer write."""
    index.build([batch([1, 2])], 5)
    assert index.apply([change(4, deletes=[1]), change(5, deletes=[2])]) == 5
    assert index.apply([]) == 5
    assert held(index) == [1, 2]


def test_applied_means_visible(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """Where Weaviate indexes in the background, apply returns, and the marker moves, only when searches find it."""
    index.build([batch([1])], 1)
    server.misbehave(visible_after_s=1.0)
    began = time.monotonic()
    applying = threading.Thread(target=index.apply, args=([change(2, batch([2]))],))
    applying.start()
    with opened(server) as other:
        time.sleep(0.5)
        assert other.stats().applied == 1
        assert proposed(other, 2) == [1]
        applying.join()
        assert time.monotonic() - began >= 1.0
        assert other.stats().applied == 2
        assert proposed(other, 2) == [2]


def test_a_build_also_waits_until_it_is_visible(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """The marker of a build is written when every vector can be found."""
    server.misbehave(visible_after_s=0.5)
    index.build([batch(range(1, 21))], 1)
    assert len(proposed(index, 1, candidates=20)) == 20


def test_another_process_learns_the_number_once(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """A fresh object reads the marker at its first search, and from then on hears of the number."""
    index.build([batch([1])], 4)
    with opened(server) as other:
        assert other.search(batch([1]).embeddings, 1).applied == 4
        index.apply([change(5, batch([2]))])
        assert other.search(batch([1]).embeddings, 1).applied == 4
        other.observe(5)
        assert other.search(batch([1]).embeddings, 1).applied == 5


@pytest.mark.parametrize("field", ["collection_id", "system_identifier", "timeline", "index_id"])
def test_another_ones_index_is_not_ready(server: FakeWeaviate, index: WeaviateIndex, field: str) -> None:
    """An identity that differs in one field alone finds nothing that it may search or apply to."""
    index.build([batch([1])], 4)
    stranger = replace(IDENTITY, **{field: getattr(IDENTITY, field) + 1})
    with opened(server, identity=stranger) as other:
        stats = other.stats()
        assert (stats.ready, stats.applied) == (False, 0)
        with pytest.raises(IndexUnavailable, match="rebuild"):
            other.search(batch([1]).embeddings, 1)
        with pytest.raises(IndexUnavailable, match="rebuild"):
            other.apply([change(5, batch([2]))])


def test_the_class_name_is_one_that_weaviate_takes() -> None:
    """The largest identity still gives a capital, then letters, digits and underscores."""
    largest = IndexIdentity(collection_id=2**63 - 1, system_identifier=-1, timeline=1, index_id=2**63 - 1)
    with weaviate_server() as server, opened(server, identity=largest) as index:
        index.build([batch([1])], 1)
        assert index.stats().details["class"].startswith("Ragstone_f")


def test_an_interrupted_build_is_not_ready(index: WeaviateIndex) -> None:
    """Batches that break off leave no marker, whatever was there before; the next build makes it whole."""

    def breaking() -> Iterator[Batch]:
        yield batch(range(1, 11))
        raise KeyboardInterrupt

    index.build([batch([77])], 3)
    with pytest.raises(KeyboardInterrupt):
        index.build(breaking(), 8)
    stats = index.stats()
    assert (stats.ready, stats.applied, stats.count) == (False, 0, 10)
    with pytest.raises(IndexUnavailable, match="rebuild"):
        index.search(batch([1]).embeddings, 1)
    index.build([batch([77])], 9)
    assert held(index) == [77]
    assert index.stats().ready


def test_no_search_passes_off_half_a_build_as_the_whole(index: WeaviateIndex) -> None:
    """While a build goes on, searches are IndexUnavailable, also where another process tells a number."""
    query = batch([1]).embeddings
    outcomes: list[str] = []

    def searching() -> Iterator[Batch]:
        yield batch(range(1, 11))
        index.observe(3)
        with pytest.raises(IndexUnavailable) as raised:
            index.search(query, 5)
        outcomes.append(str(raised.value))

    index.build([batch(range(1, 21))], 3)
    index.build(searching(), 8)
    assert len(outcomes) == 1
    index.observe(9)
    assert index.search(query, 5).applied == 9


def test_a_search_that_a_build_overtakes_says_so(
    server: FakeWeaviate, index: WeaviateIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a search found while the index was emptied and filled is not given out under the old number."""
    index.build([batch(range(1, 21))], 3)
    read = messages.ids_of

    def overtaken(reply: object) -> object:
        monkeypatch.setattr(messages, "ids_of", read)
        index.build([batch([1])], 4)
        return read(reply)

    monkeypatch.setattr(messages, "ids_of", overtaken)
    with pytest.raises(IndexUnavailable, match="built anew"):
        index.search(batch([1]).embeddings, 5)
    assert index.search(batch([1]).embeddings, 5).applied == 4


def test_ids_come_in_pages_each_once(index: WeaviateIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor goes through all pages, also a last one that is full, and leaves the marker out."""
    monkeypatch.setattr(messages, "PAGE_ROWS", 5)
    for count in (0, 4, 5, 14):
        index.build([batch(range(1, count + 1))], 1)
        assert held(index) == [*range(1, count + 1)]
        assert index.stats().count == count
    assert all(page.dtype == np.int64 for page in index.ids())


def test_dropping_takes_everything_and_may_be_repeated(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """After a drop nothing is left in the store, marker included, and a search names the fix."""
    index.build([batch([1])], 1)
    index.drop()
    index.drop()
    assert server.store.classes == {}
    stats = index.stats()
    assert (stats.count, stats.ready, stats.size_bytes) == (0, False, 0)
    with pytest.raises(IndexUnavailable, match="rebuild it from the corpus"):
        index.search(batch([1]).embeddings, 1)


METADATA = [{"lang": "en", "year": 1}, {"lang": "de"}, {}, {"lang": ["en", "fr"], "draft": True}]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"lang": "en"}, [1, 4]),
        ({"lang": {"$in": ["de", "fr"]}}, [2, 4]),
        ({"lang": {"$ne": "en"}}, [2, 3]),
        ({"draft": {"$exists": False}}, [1, 2, 3]),
        ({"lang": "en", "draft": {"$ne": True}}, [1]),
        ({"$or": [{"lang": "de"}, {"draft": True}]}, [2, 4]),
        ({"lang": "en", "year": {"$gt": 5}}, [1, 4]),
    ],
)
def test_filters_narrow_the_search(index: WeaviateIndex, asked: dict[str, object], found: list[int]) -> None:
    """What tokens can say is said to the store, also of chunks without metadata; ranges narrow nothing."""
    index.build([batch([1, 2, 3, 4], attributes=METADATA)], 1)
    assert sorted(index.search(batch([1]).embeddings, 10, parse(asked)).ids[0].tolist()) == found


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"lang": {"$ne": "en"}}, [1, 2, 3, 4]),
        ({"lang": "en", "draft": {"$ne": True}}, [1, 4]),
        ({"$or": [{"lang": "de"}, {"draft": {"$ne": True}}]}, [1, 2, 3, 4]),
    ],
)
def test_an_older_weaviate_narrows_less(asked: dict[str, object], found: list[int]) -> None:
    """Before 1.33 "has none of" cannot be said: that part is left out, and all that matches is still proposed."""
    with weaviate_server(version="1.32.9") as server, opened(server) as index:
        index.build([batch([1, 2, 3, 4], attributes=METADATA)], 1)
        assert sorted(index.search(batch([1]).embeddings, 10, parse(asked)).ids[0].tolist()) == found


def test_a_weaviate_that_is_too_old_is_refused() -> None:
    """One that cannot count over gRPC is named, with the version that can."""
    refusal = pytest.raises(IndexUnavailable, match=r"version 1\.28: Ragstone needs 1\.29")
    with weaviate_server(version="1.28.4") as server, opened(server) as index, refusal:
        index.ping()


def test_eight_threads_search_while_one_applies(index: WeaviateIndex) -> None:
    """Each search gives whole, distinct candidates, and a number that never goes back."""
    index.build([batch(range(1, 51))], 1)
    faults: list[object] = []

    def search() -> None:
        last = 0
        for _ in range(15):
            found = index.search(batch([1]).embeddings, 10)
            if len(set(found.ids[0].tolist())) != 10 or found.applied < last:
                faults.append(found)
            last = found.applied

    threads = [threading.Thread(target=search) for _ in range(8)]
    for thread in threads:
        thread.start()
    for turn in range(2, 8):
        index.apply([change(turn, batch(range(turn * 100, turn * 100 + 5)), deletes=[turn])])
    for thread in threads:
        thread.join()
    assert not faults
    assert index.stats().count == 50 + 30 - 6


def test_threads_that_come_first_share_one_connection(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """Eight threads that need it at once open it once."""
    start = threading.Barrier(8)

    def ping() -> None:
        start.wait()
        index.stats()

    threads = [threading.Thread(target=ping) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metas = [exchange for exchange in server.exchanges if exchange.path == "/v1/meta"]
    assert len(metas) == 2  # the client's own, and ours for the version


def test_a_closed_index_opens_again(index: WeaviateIndex) -> None:
    """Closing gives the connection back; closing again does nothing; the next call opens another."""
    index.build([batch([1])], 1)
    index.close()
    index.close()
    assert proposed(index, 1) == [1]


def test_the_class_is_as_lean_as_it_should_be(server: FakeWeaviate) -> None:
    """The schema asks for HNSW with our numbers, no compression, and one property to filter by."""
    with opened(server, IndexSpec(dimension=8, metric="l2")) as index:
        index.build([], 0)
        config = server.store.get(index.stats().details["class"]).config
    assert config["vectorConfig"]["default"]["vectorIndexConfig"] == {
        "distance": "l2-squared",
        "ef": 40,
        "efConstruction": 128,
        "maxConnections": 32,
        "skipDefaultQuantization": True,
    }
    filterable = [made["name"] for made in config["properties"] if made["indexFilterable"]]
    assert filterable == ["tokens"]
    assert not any(made["indexSearchable"] for made in config["properties"])
