"""What PostgreSQL would do for a search: the very statement of the search, explained in its place."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg.rows import TupleRow

from backends.corpus.database import POOL_WAIT_S, Connection, Database
from backends.errors import FilterTooExpensive

PLANNING_LIMIT_MS = 1_000
_EMBEDDING = re.compile(r"'\[[^']*\]'")
_SHOWN_CHARACTERS = 500


class ExplainingDatabase(Database):
    """Stands in for a database: its connections explain what they are given, run nothing, and return no rows.

    `plans` has what EXPLAIN (FORMAT JSON) said of each statement, without the embeddings in it.
    """

    def __init__(self, database: Database) -> None:  # its pool is the other's
        self.plans: list[list[Any]] = []
        self._database = database

    @contextmanager
    def connection(self, settings: dict[str, str] | None = None, wait_s: float = POOL_WAIT_S) -> Iterator[Connection]:
        """Lend what explains, its session set as the search's is, but for the time that planning may take."""
        limited = {**(settings or {}), "statement_timeout": str(PLANNING_LIMIT_MS)}
        with self._database.connection(limited, wait_s) as connection:
            yield cast(Connection, _Explaining(connection, self.plans))

    def rows(self, text: str, values: dict[str, Any], settings: dict[str, str]) -> list[TupleRow]:
        """Explain a statement that a search would run."""
        with self.connection(settings) as connection:
            return connection.execute(text, values).fetchall()

    def close(self) -> None:
        """Nothing to give back."""


class _Explaining:
    def __init__(self, connection: Connection, plans: list[list[Any]]) -> None:
        self._connection = connection
        self._plans = plans

    def execute(self, statement: str, values: dict[str, Any], **_: object) -> "_NoRows":
        try:
            row = self._connection.execute("EXPLAIN (FORMAT JSON) " + statement, values, prepare=False).fetchone()
        except psycopg.errors.QueryCanceled as error:
            raise FilterTooExpensive(f"planning the search took longer than {PLANNING_LIMIT_MS} ms") from error
        assert row is not None
        self._plans.append(_shortened(row[0]))
        return _NoRows()


class _NoRows:
    def fetchall(self) -> list[tuple[Any, ...]]:
        return []


def _shortened(plan: Any) -> Any:
    """A plan quotes its parameters, several times: without the embeddings it is a hundredth as long."""
    if isinstance(plan, dict):
        return {key: _shortened(value) for key, value in plan.items()}
    if isinstance(plan, list):
        return [_shortened(value) for value in plan]
    return _EMBEDDING.sub("'[…]'", plan)[:_SHOWN_CHARACTERS] if isinstance(plan, str) else plan
