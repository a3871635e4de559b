"""A corpus of the cost tests' own, whose tables of spending are empty at the start of each test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import retrieval
from retrieval.config import Settings, load
from tests.service.serving import database_of_its_own


@pytest.fixture(scope="package")
def corpus(postgres_url: str) -> Iterator[retrieval.Ragstone]:
    settings = load(embedding_model="hashing")
    with database_of_its_own(postgres_url, "costs") as url, retrieval.open(url, settings=settings) as rag:
        leave = retrieval.Document(id="leave", title="Leave", text="Everyone has thirty days of leave a year.")
        rag.create_collection("handbook").upsert([leave])
        yield rag


@pytest.fixture
def sql(corpus: retrieval.Ragstone) -> Iterator[psycopg.Connection]:
    """A connection for looking into the tables, and for ageing what is in them."""
    with psycopg.connect(corpus.database.conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def rag(corpus: retrieval.Ragstone, sql: psycopg.Connection) -> retrieval.Ragstone:
    sql.execute("TRUNCATE ragstone.spending, ragstone.budget_use")
    return corpus


@pytest.fixture
def settings_with(tmp_path: Path) -> Callable[..., Settings]:
    """Settings whose files of prices and budgets have these texts, in TOML."""

    def made(*, prices: str | None = None, budgets: str | None = None, **given: object) -> Settings:
        for name, text in (("prices", prices), ("budgets", budgets)):
            if text is not None:
                given[name] = str(tmp_path / f"{name}.toml")
                (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
        return load(**{"embedding_model": "hashing"} | given)

    return made
