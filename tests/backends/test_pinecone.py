"""The Pinecone adapter against a server that speaks Pinecone's protocol and behaves."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backends.errors import IndexUnavailable
from backends.filters import MAX_CONDITIONS, parse
from backends.pinecone import PineconeIndex, rows
from backends.tokens import MAX_TOKENS, TOKEN_BYTES
from backends.types import Batch, IndexSpec, Metric
from backends.vectors import exact_scores
from tests.backends.pinecone_subject import (
    IDENTITY,
    batch,
    batch_of,
    change,
    found,
    held,
    pinecone_index,
    query,
    spec_of,
)
from tests.fakes.pinecone_server import FakePinecone, pinecone_server

METRICS: tuple[Metric, ...] = ("cosine", "inner_product", "l2")


@pytest.fixture
def server() -> Iterator[FakePinecone]:
    """A Pinecone of its own for each test."""
    with pinecone_server() as started:
        yield started


@pytest.fixture
def index(server: FakePinecone) -> Iterator[PineconeIndex]:
    """An index with nothing built yet."""
    with pinecone_index(server) as opened:
        yield opened


def test_a_constructor_does_not_connect() -> None:
    """Nothing is reached before something is asked."""
    PineconeIndex(spec_of(), IDENTITY, api_key="none", host="http://127.0.0.1:1").close()


@pytest.mark.parametrize("metric", METRICS)
def test_the_best_candidates_are_the_nearest(server: FakePinecone, metric: Metric) -> None:
    """Ids and scores are those of an exact search, higher for nearer: also where Pinecone gives squares."""
    spec = spec_of(metric)
    chunks = batch(range(1, 61), spec)
    with pinecone_index(server, spec) as index:
        index.build([chunks], 4)
        result = index.search(query(spec), 10)
    truth = exact_scores(query(spec)[0], chunks.embeddings, spec)
    best = np.argsort(-truth)[:10]
    assert result.ids[0].tolist() == chunks.ids[best].tolist()
    assert result.scores[0] == pytest.approx(truth[best], abs=1e-5)
    assert (result.ids[0].dtype.name, result.scores[0].dtype.name, result.applied) == ("int64", "float32", 4)


def test_many_queries_are_answered_in_their_order(index: PineconeIndex) -> None:
    """Twenty queries at once give what each gives alone."""
    index.build([batch(range(1, 101))], 1)
    queries = np.concatenate([query(seed=seed) for seed in range(20)])
    together = index.search(queries, 5)
    alone = [index.search(queries[at : at + 1], 5).ids[0].tolist() for at in range(20)]
    assert [ids.tolist() for ids in together.ids] == alone


def test_an_index_is_made_once_and_waited_for(server: FakePinecone, index: PineconeIndex) -> None:
    """The first build creates the Pinecone index, where it is told to, and waits until it is ready."""
    server.data.ready_after_s = 0.4
    index.build([batch([1])], 1)
    index.build([batch([1])], 2)
    (made,) = [exchange for exchange in server.exchanges if exchange.method == "POST" and exchange.path == "/indexes"]
    assert json.loads(made.body)["spec"] == {"serverless": {"cloud": "aws", "region": "us-east-1"}}
    assert len(json.loads(made.body)["name"]) <= 45


def test_collections_share_a_pinecone_index(server: FakePinecone, index: PineconeIndex) -> None:
    """Two indexes of one dimension and metric are two namespaces, and dropping one leaves the other."""
    with pinecone_index(server, identity=replace(IDENTITY, index_id=4)) as other:
        index.build([batch([1, 2])], 1)
        other.build([batch([3])], 1)
        assert (found(index), found(other)) == ({1, 2}, {3})
        other.drop()
        assert found(index) == {1, 2}
    assert list(server.data.indexes) == [index.stats().details["pinecone_index"]]


def test_names_stay_within_pinecones_limit(server: FakePinecone) -> None:
    """The longest name there can be, of the largest identifiers, dimension and metric, is accepted."""
    largest = replace(IDENTITY, system_identifier=-1, collection_id=2**31 - 1, index_id=2**31 - 1)
    spec = IndexSpec(dimension=4_000, metric="inner_product")
    with pinecone_index(server, spec, largest) as index:
        index.build([batch([1], spec)], 1)
        assert found(index) == {1}


def test_changes_are_applied_in_order_and_again(index: PineconeIndex) -> None:
    """The last write of an id wins, a deleted id is gone, and applying again changes nothing."""
    index.build([batch([1, 2, 3])], 5)
    changes = [
        change(6, batch([4, 5], seed=1), deletes=[1]),
        change(7, batch([6], seed=2), deletes=[4]),
        change(8, deletes=[2]),
    ]
    assert index.apply(changes) == index.apply(changes) == 8
    assert held(index) == [3, 5, 6]
    assert (index.stats().count, index.stats().applied, index.stats().ready) == (3, 8, True)


def test_the_last_write_of_an_id_wins(index: PineconeIndex) -> None:
    """An id written, deleted and written again within one call is there as it was written last."""
    index.build([batch([1])], 1)
    last = query(seed=3)
    index.apply([change(2, batch([9], seed=1)), change(3, deletes=[9]), change(4, batch_of([9], last))])
    assert index.search(last, 1).scores[0][0] == pytest.approx(1, abs=1e-3)


def test_changes_already_applied_are_left_out(server: FakePinecone, index: PineconeIndex) -> None:
    """A change whose number is not above the marker's is not sent again."""
    index.build([batch([1])], 5)
    server.exchanges.clear()
    assert index.apply([change(5, batch([9]))]) == 5
    assert not server.requests("/vectors/upsert")


def test_ids_beyond_a_page_come_once(index: PineconeIndex) -> None:
    """A thousand ids come over eleven pages, each once, and the marker is not among them."""
    wanted = [*range(1, 1_000), 2**50]
    index.build([batch(wanted)], 1)
    assert held(index) == wanted


def test_building_again_replaces_everything(server: FakePinecone, index: PineconeIndex) -> None:
    """What an earlier build left is gone."""
    index.build([batch(range(1, 50))], 1)
    index.build([batch([7])], 2)
    assert held(index) == [7]
    assert index.stats().applied == 2


def test_an_interrupted_build_is_not_ready(server: FakePinecone, index: PineconeIndex) -> None:
    """A build that breaks off leaves something that says so and is never searched; the next build mends it."""

    def broken() -> Iterator[Batch]:
        yield batch([1])
        raise RuntimeError("the corpus went away")

    index.build([batch([5])], 1)
    with pytest.raises(RuntimeError, match="the corpus went away"):
        index.build(broken(), 2)
    with pinecone_index(server) as fresh:
        for one in (index, fresh):
            stats = one.stats()
            assert (stats.ready, stats.applied) == (False, 0)
            with pytest.raises(IndexUnavailable, match="broke off"):
                one.search(query(), 1)
        index.build([batch([2])], 3)
        assert found(fresh) == {2}


@pytest.mark.parametrize("field", ["collection_id", "system_identifier", "timeline", "index_id"])
def test_a_marker_of_another_identity_is_not_ours(server: FakePinecone, index: PineconeIndex, field: str) -> None:
    """Each field of the identity counts: a difference in one of the last bits makes the index not ready."""
    index.build([batch([1])], 1)
    other = replace(IDENTITY, **{field: getattr(IDENTITY, field) + 1})
    (space,) = server.data.indexes[index.stats().details["pinecone_index"]].namespaces.values()
    space.records["ragstone-marker"][1][field] = str(getattr(other, field))
    assert (index.stats().ready, index.stats().applied) == (False, 0)
    with pinecone_index(server) as fresh, pytest.raises(IndexUnavailable, match="rebuild"):
        fresh.search(query(), 1)


def test_a_new_owner_is_another_index(index: PineconeIndex) -> None:
    """Whoever follows may give the object another identity: it then serves another namespace."""
    index.build([batch([1])], 1)
    index.identity = replace(IDENTITY, system_identifier=5, timeline=2)
    assert not index.stats().ready
    index.build([batch([2])], 1)
    assert found(index) == {2}


def test_what_was_never_built_is_not_ready(index: PineconeIndex) -> None:
    """Without a Pinecone index stats say so without an error, searches and changes raise, and ping is content."""
    assert (index.stats().ready, index.stats().applied, index.stats().count) == (False, 0, 0)
    index.ping()
    index.drop()
    with pytest.raises(IndexUnavailable, match="rebuild"):
        index.search(query(), 1)
    with pytest.raises(IndexUnavailable, match="rebuild"):
        index.apply([change(1, batch([1]))])


def test_a_dropped_index_is_gone_for_all(server: FakePinecone, index: PineconeIndex) -> None:
    """Also a process that has searched it before is told, with what to do."""
    with pinecone_index(server) as other:
        index.build([batch([1])], 1)
        assert found(other) == {1}
        index.drop()
        index.drop()
        assert not index.stats().ready
        for one in (index, other):
            with pytest.raises(IndexUnavailable, match="rebuild"):
                one.search(query(), 1)


def test_searches_report_the_number_known_before(server: FakePinecone, index: PineconeIndex) -> None:
    """A process that only searches learns the number once from the marker, then from whoever applies."""
    index.build([batch([1])], 3)
    with pinecone_index(server) as other:
        server.exchanges.clear()
        assert [other.search(query(), 1).applied for _ in range(3)] == [3, 3, 3]
        assert len(server.requests("/vectors/fetch")) == 1
        index.apply([change(4, batch([2]))])
        assert other.search(query(), 1).applied == 3
        other.observe(4)
        other.observe(2)
        assert other.search(query(), 1).applied == 4
    with pinecone_index(server) as fresh:
        fresh.observe(99)
        assert fresh.search(query(), 1).applied == 4


def test_close_may_be_called_again_and_is_no_end(index: PineconeIndex) -> None:
    """After closing, the next call connects again."""
    index.build([batch([1])], 1)
    index.close()
    index.close()
    assert found(index) == {1}


FILTERS = [
    {"lang": "en"},
    {"lang": {"$ne": "en"}},
    {"year": {"$in": [2_020, 2_021]}},
    {"year": {"$nin": [2_020]}},
    {"tag": "b"},
    {"tag": {"$exists": False}},
    {"$or": [{"lang": "de"}, {"$not": {"tag": {"$exists": True}}}]},
    {"$and": [{"lang": {"$in": ["en", "de"]}}, {"year": {"$ne": 2_020}}]},
]
RECORDS: list[dict[str, Any]] = [
    {},
    {"lang": "en", "year": 2_020},
    {"lang": "de", "year": 2_021, "tag": ["a", "b"]},
    {"lang": "en", "year": 2_021.0, "tag": "b"},
    {"year": "2020", "tag": []},
    {"lang": None, "tag": ["a"]},
]


@pytest.mark.parametrize("given", FILTERS, ids=str)
def test_a_filter_that_tokens_can_say_is_exact(index: PineconeIndex, given: dict[str, object]) -> None:
    """Pinecone's own filters on our tokens let pass what our filter means, no more and no less."""
    index.build([batch(range(1, 7), attributes=RECORDS)], 1)
    asked = parse(given)
    assert asked is not None
    wanted = {id_ for id_, record in enumerate(RECORDS, 1) if asked.matches(record)}
    assert set(index.search(query(), 10, asked).ids[0].tolist()) == wanted


def test_a_filter_that_tokens_cannot_say_narrows_nothing(index: PineconeIndex) -> None:
    """A range proposes everything, and of a conjunction the rest still narrows."""
    index.build([batch(range(1, 7), attributes=RECORDS)], 1)
    assert len(index.search(query(), 10, parse({"year": {"$gte": 2_021}})).ids[0]) == 6
    both = parse({"year": {"$gte": 2_021}, "lang": "de"})
    assert index.search(query(), 10, both).ids[0].tolist() == [3]


def test_a_filter_that_nothing_passes_finds_nothing(index: PineconeIndex) -> None:
    """No hits are an answer, not a sign that the index is gone."""
    index.build([batch([1])], 1)
    assert len(index.search(query(), 10, parse({"lang": "fr"})).ids[0]) == 0


def test_tokens_and_filters_stay_within_pinecones_limits() -> None:
    """The most tokens make less metadata than 40 KB, and the largest filter lists fewer values than are allowed."""
    token = "x" * (TOKEN_BYTES * 4 // 3)
    metadata = {rows.TOKENS: [rows.PRESENT, *[token] * MAX_TOKENS]}
    assert len(json.dumps(metadata)) < rows.METADATA_BYTES
    assert MAX_CONDITIONS + 1 < rows.FILTER_VALUES


def test_a_chunk_with_very_many_attributes_is_kept_and_found(index: PineconeIndex) -> None:
    """A thousand tokens are accepted; with more a chunk is proposed by any filter."""
    full = {"tag": [f"t{number}" for number in range(MAX_TOKENS - 1)]}
    over = {"tag": [f"t{number}" for number in range(MAX_TOKENS + 500)]}
    index.build([batch([1, 2], attributes=[full, over])], 1)
    assert index.search(query(), 9, parse({"tag": "t5"})).ids[0].size == 2
    assert index.search(query(), 9, parse({"tag": "none"})).ids[0].tolist() == [2]


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
def test_zero_embeddings_are_kept_and_found(server: FakePinecone, metric: Metric) -> None:
    """Pinecone refuses zeros, as chunks and as queries: both are sent as one tiny component, and score as zeros do."""
    spec = spec_of(metric)
    embeddings = np.stack([np.zeros(8), np.ones(8)])
    with pinecone_index(server, spec) as index:
        index.build([batch_of([1, 2], embeddings)], 1)
        result = index.search(np.zeros((1, 8), np.float32), 2)
    truth = dict(zip([1, 2], exact_scores(np.zeros(8, np.float32), embeddings.astype(np.float32), spec), strict=True))
    assert dict(zip(result.ids[0].tolist(), result.scores[0].tolist(), strict=True)) == pytest.approx(truth, abs=1e-5)


def test_upserts_stay_within_two_megabytes(server: FakePinecone) -> None:
    """At 1,536 dimensions, and with numbers as long as they get, each request is accepted and well filled."""
    spec = IndexSpec(dimension=1_536, metric="inner_product", precision="single")
    values = np.random.default_rng(0).normal(size=(300, 1_536)).astype(np.float32) * np.float32(-1.1e-16)
    with pinecone_index(server, spec) as index:
        index.build([batch_of(range(1, 301), values, [{"tag": list("abcdefgh")}] * 300)], 1)
        assert index.stats().count == 300
    sizes = [len(exchange.body) for exchange in server.requests("/vectors/upsert")]
    assert max(sizes) <= rows.UPSERT_BYTES
    assert max(sizes) > rows.UPSERT_BYTES * 0.8
    assert len(sizes) == 2 + 6


def test_upserts_and_deletes_stay_within_a_thousand(server: FakePinecone, index: PineconeIndex) -> None:
    """2,500 chunks go in three requests, and so do as many deletes."""
    index.build([batch(range(1, 2_501))], 1)
    sizes = sorted(len(json.loads(exchange.body)["vectors"]) for exchange in server.requests("/vectors/upsert"))
    assert sizes == [1, 1, 500, 1_000, 1_000]
    index.apply([change(2, deletes=range(1, 2_501))])
    deletes = [json.loads(exchange.body).get("ids", []) for exchange in server.requests("/vectors/delete")]
    assert sorted(map(len, deletes)) == [0, 500, 1_000, 1_000]
    assert index.stats().count == 0


def test_no_more_than_ten_thousand_are_asked_for(server: FakePinecone, index: PineconeIndex) -> None:
    """Pinecone's limit for one query is kept."""
    index.build([batch([1, 2])], 1)
    assert len(index.search(query(), 50_000).ids[0]) == 2
    assert json.loads(server.requests("/query")[-1].body)["topK"] == rows.TOP_K


def test_values_and_metadata_are_not_asked_back(server: FakePinecone, index: PineconeIndex) -> None:
    """A search asks for ids and scores alone."""
    index.build([batch([1])], 1)
    index.search(query(), 1, parse({"lang": {"$ne": "en"}}))
    asked = json.loads(server.requests("/query")[-1].body)
    assert (asked["includeValues"], asked["includeMetadata"], asked["topK"]) == (False, False, 2)


def test_searches_never_claim_more_than_they_see(server: FakePinecone, index: PineconeIndex) -> None:
    """Eight threads search while one applies and writes appear late: what a search reports as applied, it has seen."""
    server.data.lag_s = 0.03
    index.build([batch([1_000])], 0)
    faults: list[str] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            result = index.search(query(), 100)
            ids = result.ids[0].tolist()
            if missing := set(range(1, result.applied + 1)) - set(ids):
                faults.append(f"{missing} at {result.applied}")
            if len(ids) != len(set(ids)):
                faults.append("an id twice")

    threads = [threading.Thread(target=search) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(1, 9):
        index.apply([change(number, batch([number], seed=number))])
    done.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert index.search(query(), 1).applied == 8


def test_no_search_passes_off_half_a_build(server: FakePinecone, index: PineconeIndex) -> None:
    """While the index is built anew in place a search finds everything, as before or after, or says that it cannot."""
    server.data.lag_s = 0.02
    index.build([batch([1, 2, 3])], 1)
    faults: list[set[int]] = []
    refused = threading.Event()
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            try:
                ids = found(index)
            except IndexUnavailable:
                refused.set()
                continue
            if ids not in ({1, 2, 3}, {4, 5, 6}):
                faults.append(ids)

    def slowly() -> Iterator[Batch]:
        for id_ in (4, 5, 6):
            time.sleep(0.05)
            yield batch([id_])

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backends.pinecone.index.HELD_BYTES", 1)
        index.build(slowly(), 2)
    done.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert refused.is_set()
    assert found(index) == {4, 5, 6}
