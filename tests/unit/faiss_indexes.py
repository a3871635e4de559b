"""What the tests of the FAISS adapter share: made-up changes, and indexes whose sealing begins early."""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import VectorIndex
from backends.faiss import FaissIndex
from backends.types import Batch, Change, Embeddings, Ids, IndexIdentity, IndexSpec
from backends.vectors import exact_scores, prepare
from tests.corpora import random_embeddings

IDENTITY = IndexIdentity(collection_id=1, system_identifier=2, timeline=1, index_id=3)
SPEC = IndexSpec(dimension=8, metric="l2")


def opened(folder: Path, spec: IndexSpec = SPEC, **options: Any) -> FaissIndex:
    """Return an index in this folder, on the CPU unless the options say otherwise."""
    return FaissIndex(spec, IDENTITY, folder=folder, **{"device": "cpu", **options})


def batch(ids: object, spec: IndexSpec = SPEC, seed: int = 0) -> Batch:
    """Return a batch of these ids; ids and seed say what the embeddings are."""
    numbers = np.array(ids, dtype=np.int64)
    embeddings = prepare(random_embeddings(len(numbers), spec.dimension, seed), spec)
    return Batch(ids=numbers, embeddings=embeddings, attributes=[{} for _ in numbers])


def change(sequence: int, upserts: object = (), deletes: object = (), spec: IndexSpec = SPEC) -> Change:
    """Return a change with these ids; its number is the seed of its embeddings."""
    return Change(
        sequence=sequence, upserts=batch(upserts, spec, seed=sequence), deletes=np.array(deletes, dtype=np.int64)
    )


def queries(count: int = 3, spec: IndexSpec = SPEC, seed: int = 99) -> Embeddings:
    """Return prepared queries [count, d]."""
    return prepare(random_embeddings(count, spec.dimension, seed), spec)


def held(index: VectorIndex) -> list[int]:
    """Return all ids that an index holds, in order."""
    return sorted(int(id_) for part in index.ids() for id_ in part)


def settled() -> None:
    """Wait until no index seals or merges."""
    for thread in threading.enumerate():
        if thread.name == "faiss-compaction":
            thread.join(timeout=60)
            assert not thread.is_alive()


def recall(found: list[Ids], rows: Batch, asked: Embeddings, spec: IndexSpec, allowed: Ids) -> float:
    """Return the share of the truly nearest `allowed` rows among what was found, as many as were found."""
    chosen = np.isin(rows.ids, allowed)
    ids, embeddings = rows.ids[chosen], rows.embeddings[chosen]
    shares = []
    for query, proposed in zip(asked, found, strict=True):
        best = ids[np.argsort(-exact_scores(query, embeddings, spec))[: len(proposed)]]
        shares.append(len(np.intersect1d(best, proposed)) / len(proposed))
    return float(np.mean(shares))
