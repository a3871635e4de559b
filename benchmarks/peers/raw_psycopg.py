"""psycopg and pgvector as they come: one table, one statement, no settings but ef_search."""

import psycopg
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

from benchmarks.peers.protocol import HNSW_EF_CONSTRUCTION, HNSW_M, Below, Embeddings, Peer, Place, Rows, blocks

TABLE = "raw_psycopg"
OPERATOR = {"cosine": "<=>", "l2": "<->"}
OPERATOR_CLASS = {"cosine": "vector_cosine_ops", "l2": "vector_l2_ops"}
ROWS_PER_INSERT = 1_000


class RawPsycopg(Peer):
    """What the README of pgvector for Python shows, with `executemany` and `SELECT ... ORDER BY ... LIMIT`."""

    name = "raw_psycopg"
    distributions = ("psycopg", "pgvector")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._connection = psycopg.connect(place.url, autocommit=True)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(self._connection)
        self._statement = ""

    def load(self, rows: Rows) -> None:
        """Insert blocks of rows, then build HNSW."""
        self._connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        self._connection.execute(
            f"CREATE TABLE {TABLE} (id text PRIMARY KEY, text text, metadata jsonb, embedding vector({rows.dimension}))"
        )
        metadata = rows.metadata()
        for part in blocks(rows, ROWS_PER_INSERT):
            columns = (rows.ids[part], rows.texts[part], map(Jsonb, metadata[part]), rows.embeddings[part])
            with self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.executemany(f"INSERT INTO {TABLE} VALUES (%s, %s, %s, %s)", zip(*columns, strict=True))  # noqa: S608  # our own table
        self._connection.execute(
            f"CREATE INDEX ON {TABLE} USING hnsw (embedding {OPERATOR_CLASS[rows.metric]}) "
            f"WITH (m = {HNSW_M}, ef_construction = {HNSW_EF_CONSTRUCTION})"
        )
        self._connection.execute(f"ANALYZE {TABLE}")
        self._statement = (
            f"SELECT id, text, metadata FROM {TABLE} {{where}} ORDER BY embedding {OPERATOR[rows.metric]} %s LIMIT %s"  # noqa: S608  # our own table
        )

    def prepare(self, effort: int | None) -> None:
        """Set ef_search for the session."""
        self._connection.execute("SET hnsw.ef_search = DEFAULT" if effort is None else f"SET hnsw.ef_search = {effort}")

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> list[str]:
        """Ask with the filter as most people write it, on the text of the metadata's value."""
        del effort  # `prepare` has set it
        where = "" if below is None else "WHERE (metadata->>'n')::bigint < %s"
        bound = () if below is None else (below.bound,)
        rows = self._connection.execute(self._statement.format(where=where), (*bound, embedding, top_k)).fetchall()
        return [row[0] for row in rows]

    def size_bytes(self) -> int:
        """Table and indexes."""
        return table_bytes(self._connection, TABLE)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()


def table_bytes(connection: "psycopg.Connection[tuple[object, ...]]", table: str) -> int:
    """What a table takes with its indexes and what is kept beside it."""
    row = connection.execute("SELECT pg_total_relation_size(%s::text::regclass)", (table,)).fetchone()
    assert row is not None
    assert isinstance(row[0], int)
    return row[0]


PEER = RawPsycopg
