"""A corpus of the latency tests' own, whose tables of latencies are empty at the start of each test."""

from collections.abc import Iterator

import psycopg
import pytest

import retrieval
from retrieval.config import load
from tests.service.serving import database_of_its_own


@pytest.fixture(scope="package")
def corpus(postgres_url: str) -> Iterator[retrieval.Ragstone]:
    settings = load(embedding_model="hashing", index_min_chunks=200, slow_query_ms=0)
    with database_of_its_own(postgres_url, "latency") as url, retrieval.open(url, settings=settings) as rag:
        yield rag


@pytest.fixture
def sql(corpus: retrieval.Ragstone) -> Iterator[psycopg.Connection]:
    """A connection for looking into the tables, and for ageing what is in them."""
    with psycopg.connect(corpus.database.conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def rag(corpus: retrieval.Ragstone, sql: psycopg.Connection) -> retrieval.Ragstone:
    sql.execute("TRUNCATE ragstone.latency, ragstone.slow_query")
    return corpus
