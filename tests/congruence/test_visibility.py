"""Stores that acknowledge a write long before searches see it: what Ragstone answers meanwhile."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest

from backends.corpus.database import Database
from backends.corpus.following import bring_up_to_date, rebuild, sequence_of
from backends.corpus.writing import write
from backends.filters import parse
from backends.searching import Searcher
from backends.types import IndexSpec
from backends.vectors import prepare
from retrieval.placement import open_index
from tests.corpora import TAIL_LIMIT, made_collection, put, random_embeddings, searcher
from tests.fakes.pinecone_server import API_KEY, pinecone_server
from tests.fakes.weaviate_server import weaviate_server
from tests.stores import Stores

VISIBLE_AFTER_S = {"weaviate": 5.0, "pinecone": 2.5}
"""In Pinecone the marker is written when what it speaks for is seen: twice as long."""
LOOK_S = 0.1
COUNT, TOP_K = 60, 10
SPEC = IndexSpec(dimension=8)
IDS = [f"d{n:02d}" for n in range(COUNT)]

Store = tuple[dict[str, object], Callable[[], None]]
"""Where a store is, and what makes it slow."""


@contextmanager
def _weaviate() -> Iterator[Store]:
    with weaviate_server() as server:
        where: dict[str, object] = {"weaviate_url": server.url, "weaviate_grpc_port": server.grpc_port}
        yield where, lambda: server.misbehave(visible_after_s=VISIBLE_AFTER_S["weaviate"])


@contextmanager
def _pinecone() -> Iterator[Store]:
    with pinecone_server() as server:
        where: dict[str, object] = {"pinecone_host": server.url, "pinecone_api_key": API_KEY}
        yield where, lambda: setattr(server.data, "lag_s", VISIBLE_AFTER_S["pinecone"])


@pytest.mark.parametrize(("backend", "opened"), [("weaviate", _weaviate), ("pinecone", _pinecone)])
def test_writes_count_before_the_store_shows_them(
    database: Database, stores: Stores, name: str, no_short_cut: None, backend: str,
    opened: Callable[[], AbstractContextManager[Store]],
) -> None:  # fmt: skip
    """A write is found by the very next search, and what was deleted or replaced is not: before, during, after."""
    stores.settings(backend)  # skips where its driver is not installed
    embeddings = random_embeddings(COUNT, SPEC.dimension)
    with opened() as (where, be_slow), made_collection(database, name, SPEC, backend) as collection:
        put(database, collection, IDS, embeddings, [{"kept": True}] * COUNT)
        index = open_index(database, collection, stores.settings(backend, **where))
        rebuild(database, collection, index)
        be_slow()
        query = prepare(embeddings[:1], SPEC)[0]
        asked = searcher(database, collection, index)
        deleted, replaced = (chunk.id for chunk in asked.search(query, 2).hits)
        put(database, collection, ["new"], embeddings[:1], [{"kept": True}])
        put(database, collection, [replaced], -embeddings[:1], [{"kept": True}])
        write(database, collection, lambda change: change.delete_documents([deleted]), TAIL_LIMIT)
        _look(asked, query, {deleted, replaced})
        with ThreadPoolExecutor(1) as follower:
            following = follower.submit(bring_up_to_date, database, collection, index)
            looks = 0
            while not following.done():
                _look(asked, query, {deleted, replaced})
                looks += 1
                time.sleep(LOOK_S)
            assert following.result() == sequence_of(database, collection)
        _look(asked, query, {deleted, replaced})
        assert looks > 1
        assert index.search(query[None], 1).applied == sequence_of(database, collection)
        index.close()


def _look(asked: Searcher, query: np.ndarray, gone: set[str]) -> None:
    for filter in (None, parse({"kept": True})):
        found = asked.search(query, TOP_K, filter)
        ids = [chunk.id for chunk in found.hits]
        assert not found.exact
        assert len(ids) == TOP_K
        assert ids[0] == "new"
        assert gone.isdisjoint(ids)
