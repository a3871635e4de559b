"""Plain FAISS, and one prepared statement that fetches the texts of a whole batch: a program around FAISS."""

import psycopg

from benchmarks.peers.plain_faiss import PlainFaiss
from benchmarks.peers.protocol import Below, Embeddings, Place, Rows
from benchmarks.peers.raw_psycopg import table_bytes

TABLE = "faiss_texts"
FETCH = f"SELECT id, text, metadata FROM {TABLE} WHERE id = ANY(%s)"  # noqa: S608  # our own table


class FaissTexts(PlainFaiss):
    """The limit for FAISS beside PostgreSQL: nothing is checked, and nothing is scored again."""

    name = "faiss_texts"
    distributions = ("faiss-cpu", "psycopg")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._connection = psycopg.connect(place.url, autocommit=True, prepare_threshold=0)

    def load(self, rows: Rows) -> None:
        """Build the graph, and copy texts and metadata into a table."""
        super().load(rows)
        self._connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        self._connection.execute(f"CREATE TABLE {TABLE} (id text, text text, metadata jsonb)")
        with self._connection.cursor() as cursor, cursor.copy(f"COPY {TABLE} FROM STDIN") as copy:
            for id_, text, number in zip(rows.ids, rows.texts, rows.numbers.tolist(), strict=True):
                copy.write_row((id_, text, f'{{"n": {number}}}'))
        self._connection.execute(f"ALTER TABLE {TABLE} ADD PRIMARY KEY (id)")
        self._connection.execute(f"VACUUM ANALYZE {TABLE}")

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> list[str]:
        """Search, and fetch ten texts."""
        return self._fetched([super().search(embedding, top_k, effort, below)])[0]

    def search_many(self, embeddings: Embeddings, top_k: int, effort: int | None) -> list[list[str]]:
        """Search a batch, and fetch all its texts at once."""
        return self._fetched(super().search_many(embeddings, top_k, effort))

    def _fetched(self, found: list[list[str]]) -> list[list[str]]:
        wanted = list({id_ for ids in found for id_ in ids})
        rows = self._connection.execute(FETCH, (wanted,), binary=True).fetchall()
        texts = {row[0]: row for row in rows}
        return [[texts[id_][0] for id_ in ids] for ids in found]

    def size_bytes(self) -> int:
        """The index and the table."""
        return super().size_bytes() + table_bytes(self._connection, TABLE)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()


PEER = FaissTexts
