"""One fixture for each backend: an empty index beside an empty collection. A new backend adds a line to BACKENDS."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from backends.base import VectorIndex
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.following import bring_up_to_date
from backends.searching import Searcher
from backends.types import IndexSpec
from retrieval.placement import open_index
from tests.corpora import made_collection, put, searcher
from tests.stores import BACKENDS, Stores


@dataclass(frozen=True, slots=True)
class Subject:
    """A collection and the index under test; `put` writes to the corpus and lets the index follow."""

    database: Database
    collection: CollectionState
    index: VectorIndex

    def put(self, ids: list[str], embeddings: object, metadata: list[dict[str, object]] | None = None) -> None:
        put(self.database, self.collection, ids, embeddings, metadata)
        self.follow()

    def follow(self) -> None:
        bring_up_to_date(self.database, self.collection, self.index)

    @property
    def searcher(self) -> Searcher:
        return searcher(self.database, self.collection, self.index)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["cosine", "inner_product", "l2"])
def spec(request: pytest.FixtureRequest) -> IndexSpec:
    return IndexSpec(dimension=8, metric=request.param)


@pytest.fixture
def subject(database: Database, backend: str, stores: Stores, spec: IndexSpec, name: str) -> Iterator[Subject]:
    settings = stores.settings(backend)
    with made_collection(database, name, spec, backend) as collection:
        index = open_index(database, collection, settings)
        index.build((), 0)
        yield Subject(database, collection, index)
        index.drop()
        index.close()
