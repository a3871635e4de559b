"""Statements that an event loop waits for: the same ones as elsewhere, without a thread for each."""

import asyncio
import logging
from contextlib import suppress
from typing import Any

import psycopg
from pgvector.psycopg import register_vector_async
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from backends.corpus.database import Database, session_settings
from backends.errors import FilterTooExpensive

AsyncConnection = psycopg.AsyncConnection[TupleRow]
Settings = dict[str, str]

log = logging.getLogger(__name__)


class AsyncStatements:
    """Connections for searches of one event loop, opened as they are needed, beside the pool of `database`.

    At most `most` of them. Errors are not told here: a thread that does the same has the words for them.
    """

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most
        self._open = 0
        self._closed = False
        self._free: list[tuple[AsyncConnection, Settings]] = []

    async def rows(self, text: str, values: dict[str, Any], settings: Settings) -> list[TupleRow] | None:
        """Run one statement in a session that is set to `settings`, and return its rows.

        None where that failed, or where every connection is in use. Raises FilterTooExpensive.
        """
        if not self._free and self._open >= self._most:
            return None
        try:
            return await self._rows(text, values, settings)
        except psycopg.errors.QueryCanceled as error:
            raise FilterTooExpensive("the search took longer than statement_budget_ms: try again later") from error
        except psycopg.Error as error:
            log.debug("a search is done again, in a thread: %s", error)
            if isinstance(error, psycopg.OperationalError):
                await self._close_free()  # whatever ended this connection may have ended the others
            return None

    async def _rows(self, text: str, values: dict[str, Any], settings: Settings) -> list[TupleRow]:
        connection, was_set_to = self._free.pop() if self._free else (await self._connect(), {})
        try:
            if was_set_to != settings:
                await connection.execute(session_settings(settings))
            cursor = await connection.execute(text, values, binary=True)
            rows = await cursor.fetchall()
        except BaseException:
            await self._give_up(connection)
            raise
        if self._closed:
            await self._give_up(connection)
        else:
            self._free.append((connection, settings))
        return rows

    async def close(self) -> None:
        """Close the connections that are free; one that is in use is closed by whoever uses it."""
        self._closed = True
        await self._close_free()

    async def _close_free(self) -> None:
        while self._free:
            await self._give_up(self._free.pop()[0])

    async def _give_up(self, connection: AsyncConnection) -> None:
        self._open -= 1
        await _closed(connection)

    async def _connect(self) -> AsyncConnection:
        self._open += 1
        try:
            connection: AsyncConnection = await psycopg.AsyncConnection.connect(
                self._database.conninfo, **self._database.options
            )
        except BaseException:
            self._open -= 1
            raise
        try:
            await register_vector_async(connection)
        except BaseException:
            await self._give_up(connection)
            raise
        return connection


async def _closed(connection: AsyncConnection) -> None:
    """Close without a wait; a statement that still runs is ended by its own timeout."""
    if connection.info.transaction_status is TransactionStatus.ACTIVE:
        with suppress(asyncio.CancelledError, TimeoutError, psycopg.Error):
            await connection.cancel_safe(timeout=1.0)
    with suppress(psycopg.Error):
        await connection.close()
