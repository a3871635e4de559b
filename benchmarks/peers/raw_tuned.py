"""psycopg and pgvector, tuned: half precision, binary COPY, one prepared binary statement, an index on the metadata.

The limit for a search that fetches text and metadata: no join, no checks, nothing around the statement.
"""

import json
import struct
from typing import ClassVar

import numpy as np
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector

from benchmarks.peers.protocol import HNSW_EF_CONSTRUCTION, HNSW_M, Below, Embeddings, Peer, Place, Rows, blocks
from benchmarks.peers.raw_psycopg import OPERATOR, table_bytes

OPERATOR_CLASS = {"cosine": "halfvec_cosine_ops", "l2": "halfvec_l2_ops"}
PLAIN_BYTES = 6_000
"""Embeddings up to this size stay in the row, beside text and metadata: a page has 8 KiB."""
SETTINGS = (
    "SET jit = off",
    "SET max_parallel_workers_per_gather = 0",
    "SET hnsw.iterative_scan = relaxed_order",
    "SET maintenance_work_mem = '1GB'",
    "SET min_parallel_table_scan_size = 0",  # else a small table gets its HNSW from one process
)
ROWS_PER_COPY = 20_000
COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
COPY_TRAILER = struct.pack(">h", -1)


class RawTuned(Peer):
    """One table, whose rows are written by COPY; HNSW and the index on metadata->'n' are built afterwards."""

    name = "raw_tuned"
    distributions = ("psycopg", "pgvector")
    table: ClassVar[str] = "raw_tuned"
    has_hnsw: ClassVar[bool] = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._connection = psycopg.connect(place.url, autocommit=True, prepare_threshold=0)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(self._connection)
        for setting in SETTINGS:
            self._connection.execute(setting)
        self._statement = self._filtered = ""

    def load(self, rows: Rows) -> None:
        """COPY encoded rows, then build the indexes."""
        table = self.table
        self._connection.execute(f"DROP TABLE IF EXISTS {table}")
        self._connection.execute(
            f"CREATE TABLE {table} (id text, text text, metadata jsonb, embedding halfvec({rows.dimension}))"
        )
        if 2 * rows.dimension <= PLAIN_BYTES:
            self._connection.execute(f"ALTER TABLE {table} ALTER embedding SET STORAGE PLAIN")
        for part in blocks(rows, ROWS_PER_COPY):
            with self._connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)") as copy:
                copy.write(_encoded(rows, part))
        self.note_stored()
        self._index(rows)
        selected = f"SELECT id, text, metadata FROM {table}"  # noqa: S608  # our own table
        nearest = f"ORDER BY embedding {OPERATOR[rows.metric]} %s LIMIT %s"
        self._statement = f"{selected} {nearest}"
        self._filtered = f"{selected} WHERE (metadata->'n')::bigint < %s {nearest}"

    def _index(self, rows: Rows) -> None:
        table = self.table
        self._connection.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (id)")
        self._connection.execute(f"CREATE INDEX ON {table} (((metadata->'n')::bigint))")
        if self.has_hnsw:
            self._connection.execute(
                f"CREATE INDEX ON {table} USING hnsw (embedding {OPERATOR_CLASS[rows.metric]}) "
                f"WITH (m = {HNSW_M}, ef_construction = {HNSW_EF_CONSTRUCTION})"
            )
        self._connection.execute(f"VACUUM ANALYZE {table}")

    def prepare(self, effort: int | None) -> None:
        """Set ef_search for the session."""
        self._connection.execute("SET hnsw.ef_search = DEFAULT" if effort is None else f"SET hnsw.ef_search = {effort}")

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> list[str]:
        """Execute one prepared statement; parameters and rows are binary."""
        del effort  # `prepare` has set it
        query = HalfVector(embedding)
        if below is None:
            found = self._connection.execute(self._statement, (query, top_k), binary=True).fetchall()
        else:
            found = self._connection.execute(self._filtered, (below.bound, query, top_k), binary=True).fetchall()
        return [row[0] for row in found]

    def size_bytes(self) -> int:
        """Table and indexes."""
        return table_bytes(self._connection, self.table)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()


def _encoded(rows: Rows, part: slice) -> bytes:
    """Rows as PostgreSQL's binary COPY takes them: https://www.postgresql.org/docs/current/sql-copy.html.

    A jsonb is the byte 1 and its text; a halfvec is its dimension and 0, both int16, and then big-endian halfs.
    """
    halfs = rows.embeddings[part].astype(">f2")
    dimension = struct.pack(">hh", halfs.shape[1], 0)
    metadata = [json.dumps({"n": number}) for number in rows.numbers[part].tolist()]
    pieces = [COPY_HEADER]
    for id_, text, about, half in zip(rows.ids[part], rows.texts[part], metadata, halfs, strict=True):
        fields = (
            id_.encode(),
            text.encode(),
            b"\x01" + about.encode(),
            dimension + np.ascontiguousarray(half).tobytes(),
        )
        pieces.append(struct.pack(">h", len(fields)))
        for field in fields:
            pieces += (struct.pack(">i", len(field)), field)
    return b"".join([*pieces, COPY_TRAILER])


PEER = RawTuned
