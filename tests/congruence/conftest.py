"""Each backend beside a collection, each metric, half and single precision in turn."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from backends import searching
from backends.base import VectorIndex
from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.following import bring_up_to_date, rebuild
from backends.corpus.writing import write
from backends.filters import check_metadata, parse
from backends.pgvector import PgvectorIndex
from backends.searching import Searcher
from backends.types import IndexSpec, Metric
from retrieval.placement import open_index
from tests.congruence.drawing import DIMENSION, Delete, DeleteMatching, Follow, NewMetadata, Rebuild, Step, Upsert
from tests.corpora import TAIL_LIMIT, made_collection, put, searcher
from tests.stores import BACKENDS, Stores

HNSW = "pgvector with HNSW"
WAYS = (*BACKENDS, HNSW)
METRICS: tuple[Metric, ...] = ("cosine", "inner_product", "l2")


@dataclass(frozen=True, slots=True)
class Subject:
    """A collection, an index of it, and what searches through that: one for the whole test, as in a service."""

    database: Database
    collection: CollectionState
    index: VectorIndex
    searcher: Searcher

    @property
    def spec(self) -> IndexSpec:
        return self.collection.spec

    @property
    def has_hnsw(self) -> bool:
        return isinstance(self.index, PgvectorIndex) and self.index.ready

    def usable(self, embeddings: np.ndarray) -> np.ndarray:
        """Return drawn embeddings as they can be written; where zeros are refused, ones stand for them."""
        usable = embeddings.any(axis=1, keepdims=True) | (self.spec.metric != "cosine")
        return np.where(usable, embeddings, np.float32(1))

    def take(self, step: Step, embeddings: np.ndarray) -> None:
        """Do what the step does, to the corpus or to the index."""
        match step:
            case Upsert(metadata, rows):
                chosen = embeddings[list(rows.values())]
                put(self.database, self.collection, list(rows), chosen, [metadata[id_] for id_ in rows])
            case NewMetadata(metadata):
                texts = {id_: check_metadata(given) for id_, given in metadata.items()}
                write(self.database, self.collection, lambda change: change.replace_metadata(texts), TAIL_LIMIT)
            case Delete(ids):
                write(self.database, self.collection, lambda change: change.delete_documents(ids), TAIL_LIMIT)
            case DeleteMatching(filter):
                parsed = parse(filter)
                assert parsed is not None
                write(self.database, self.collection, lambda change: change.delete_matching(parsed), TAIL_LIMIT)
            case Follow():
                bring_up_to_date(self.database, self.collection, self.index)
            case Rebuild() if not self.index.capabilities.in_corpus:  # what is there is never built again
                rebuild(self.database, self.collection, self.index)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=METRICS)
def spec(request: pytest.FixtureRequest, way: str) -> IndexSpec:
    """Every metric, and both precisions, for each backend; both precisions for each metric."""
    single = (WAYS.index(way) + METRICS.index(request.param)) % 2
    return IndexSpec(dimension=DIMENSION, metric=request.param, precision="single" if single else "half")


@pytest.fixture
def subject(database: Database, way: str, stores: Stores, spec: IndexSpec, name: str) -> Iterator[Subject]:
    backend = "pgvector" if way == HNSW else way
    settings = stores.settings(backend)
    with made_collection(database, name, spec, backend) as collection:
        index = open_index(database, collection, settings)
        if way != "pgvector":
            index.build((), 0)
        yield Subject(database, collection, index, searcher(database, collection, index))
        index.drop()
        index.close()


@pytest.fixture
def no_short_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the index also where a filter matches little: few chunks go the way of many."""
    monkeypatch.setattr(searching, "EXACT_BELOW", 0)
    monkeypatch.setattr(searching, "COMPARED_PER_PROPOSAL", 0)
