"""The limit for a search service in Python: one route, nothing checked, nothing recorded, nothing kept up to date.

    python -m benchmarks.http.minimal --url POSTGRES_URL --port 8001

Starlette's routing, orjson both ways, psycopg with prepared statements and binary values, one table that holds
everything, metadata passed through as the JSON that PostgreSQL stores. It answers what the others answer: ids,
scores, texts and metadata.

    POST /search {"embedding": [...], "top_k": 10}  ->  {"results": [{"id", "score", "text", "metadata"}, ...]}
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import numpy as np
import orjson
import psycopg
import uvicorn
from pgvector import HalfVector
from pgvector.psycopg import register_vector, register_vector_async
from psycopg.adapt import Loader
from psycopg.pq import Format
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.peers.protocol import HNSW_EF_CONSTRUCTION, HNSW_M, Rows

TABLE: LiteralString = "minimal_service"
CONNECTIONS = 8
"""As many as the service beside it has."""
OPERATORS: dict[str, tuple[LiteralString, LiteralString, LiteralString]] = {
    "cosine": ("<=>", "halfvec_cosine_ops", "1 - (embedding <=> %(query)b)"),
    "l2": ("<->", "halfvec_l2_ops", "-(embedding <-> %(query)b)"),
}


class RawJson(Loader):
    """A jsonb value as the JSON it is, to be passed on without being read."""

    format = Format.BINARY

    def load(self, data: Any) -> orjson.Fragment:
        return orjson.Fragment(bytes(data)[1:])  # the first byte is the version of the format


class Searches:
    """The connections and the one statement."""

    def __init__(self, url: str, effort: int) -> None:
        self._url = url
        self._effort = effort
        self._idle: asyncio.LifoQueue[psycopg.AsyncConnection[Any]] = asyncio.LifoQueue()
        self._statement: LiteralString = ""

    async def open(self) -> None:
        for _ in range(CONNECTIONS):
            self._idle.put_nowait(await self._connect())
        connection = await self._idle.get()
        found = await (await connection.execute(f"SELECT obj_description('{TABLE}'::regclass)")).fetchone()
        self._idle.put_nowait(connection)
        assert found is not None
        operator, _, score = OPERATORS[found[0]]
        self._statement = (
            f"SELECT id, text, metadata, {score} FROM {TABLE} "  # noqa: S608  # constants of this module
            f"ORDER BY embedding {operator} %(query)b LIMIT %(top_k)s"
        )

    async def close(self) -> None:
        while not self._idle.empty():
            await self._idle.get_nowait().close()

    async def answer(self, request: Request) -> Response:
        """Search, with the next connection that is free."""
        asked = orjson.loads(await request.body())
        values = {"query": HalfVector(np.array(asked["embedding"], dtype=">f2")), "top_k": asked["top_k"]}
        connection = await self._idle.get()
        try:
            cursor = await connection.cursor(binary=True).execute(self._statement, values, prepare=True)
            rows = await cursor.fetchall()
        finally:
            self._idle.put_nowait(connection)
        results = [{"id": row[0], "score": row[3], "text": row[1], "metadata": row[2]} for row in rows]
        return Response(orjson.dumps({"results": results}), media_type="application/json")

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        await register_vector_async(connection)
        connection.adapters.register_loader("jsonb", RawJson)
        for setting, value in (("hnsw.ef_search", str(self._effort)), ("jit", "off"), ("enable_seqscan", "off")):
            await connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
        return connection


def load(url: str, rows: Rows) -> None:
    """Make the table anew, with its HNSW index."""
    _, operators, _ = OPERATORS[rows.metric]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        columns = f"id text PRIMARY KEY, text text, metadata jsonb, embedding halfvec({rows.dimension})"
        connection.execute(f"CREATE TABLE {TABLE} ({columns})".encode())
        connection.execute(f"ALTER TABLE {TABLE} ALTER embedding SET STORAGE PLAIN")
        connection.execute(f"COMMENT ON TABLE {TABLE} IS '{rows.metric}'".encode())
        _copy(connection, rows)
        settings = f"m = {HNSW_M}, ef_construction = {HNSW_EF_CONSTRUCTION}"
        connection.execute(f"CREATE INDEX ON {TABLE} USING hnsw (embedding {operators}) WITH ({settings})".encode())
        connection.execute(f"VACUUM ANALYZE {TABLE}")


def _copy(connection: psycopg.Connection[Any], rows: Rows) -> None:
    statement: LiteralString = f"COPY {TABLE} (id, text, metadata, embedding) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for id_, text, number, embedding in zip(rows.ids, rows.texts, rows.numbers, rows.embeddings, strict=True):
            copy.write_row((id_, text, f'{{"n": {number}}}', HalfVector(embedding)))


def application(url: str, effort: int) -> Starlette:
    """The service over that table, which `load` made."""
    searches = Searches(url, effort)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001  # Starlette passes it
        await searches.open()
        yield
        await searches.close()

    return Starlette(routes=[Route("/search", searches.answer, methods=["POST"])], lifespan=lifespan)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--effort", type=int, default=40)
    arguments = parser.parse_args()
    app = application(arguments.url, arguments.effort)
    uvicorn.run(app, port=arguments.port, access_log=False, log_level="warning", loop="uvloop", http="httptools")


if __name__ == "__main__":
    main()
