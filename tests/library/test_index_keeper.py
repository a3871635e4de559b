"""Whoever waits for an index gets it as soon as it is built, and it is built once."""

import time

import numpy as np
import pytest

import retrieval
from backends.pgvector import PgvectorIndex
from retrieval.config import load

ROWS = 300


def test_waiting_for_a_build_does_not_ask_for_another(
    postgres_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it takes longer than whoever waits looks."""
    builds: list[str] = []
    build_missing = PgvectorIndex.build_missing

    def slow(index: PgvectorIndex) -> bool:
        builds.append(index.identity.name)
        time.sleep(0.8)
        return build_missing(index)

    monkeypatch.setattr(PgvectorIndex, "build_missing", slow)
    with retrieval.open(postgres_url, settings=load(embedding_model="hashing", index_min_chunks=ROWS)) as rag:
        collection = rag.create_collection(name, dimension=8)
        try:
            embeddings = np.random.default_rng(1).normal(size=(ROWS, 8))
            collection.upsert_embeddings([f"d{n}" for n in range(ROWS)], embeddings, ["t"] * ROWS)
            collection.wait_until_indexed(timeout_s=30)
            assert collection.info().indexed
            time.sleep(0.2)  # a build asked for meanwhile would begin at once
        finally:
            rag.delete_collection(name)
    assert len(builds) == 1


def test_the_builder_takes_workers_for_a_small_table_too(postgres_url: str, name: str) -> None:
    """PostgreSQL would leave one below 8 MB to a single process, though HNSW takes seconds there."""
    with retrieval.open(postgres_url, settings=load(embedding_model="hashing")) as rag:
        collection = rag.create_collection(name, dimension=8)
        try:
            index = collection._searches.route.index.index
            assert isinstance(index, PgvectorIndex)
            with index._build_lock() as builder, rag.database.connection() as other:
                assert builder is not None
                smallest = [one.execute("SHOW min_parallel_table_scan_size").fetchone() for one in (builder, other)]
            assert smallest == [("0",), ("8MB",)]
        finally:
            rag.delete_collection(name)
