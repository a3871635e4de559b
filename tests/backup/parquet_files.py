"""Rows of chunks as Parquet files: as they are written, and as others might write or forge them."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from backends.types import Precision
from backends.vectors import KEPT
from ops.backup.manifest import ShardFile
from ops.backup.shards import chunk_schema, embedding_array, write_chunks

DIMENSION = 8
WHERE = "20261125T143012.123456Z-full/c1-chunks-000001.parquet"
OURS: dict[str, Any] = {
    "compression": {"document_id": "ZSTD", "title": "ZSTD", "text": "ZSTD", "metadata": "ZSTD"},
    "use_dictionary": False,
    "write_statistics": False,
    "store_schema": False,
}
"""What a writer of pyarrow's is told to write as we do."""


def chunk_rows(count: int, first_id: int = 1, precision: Precision = "half", **columns: Any) -> pa.RecordBatch:
    """Return made-up rows, with other values for some columns."""
    rng = np.random.default_rng(first_id)
    embeddings = rng.standard_normal((count, DIMENSION)).astype(KEPT[precision])
    schema = chunk_schema(DIMENSION, precision)
    made: dict[str, Any] = {
        "id": range(first_id, first_id + count),
        "document_id": [f"document {number // 3}" for number in range(count)],
        "ordinal": [number % 3 for number in range(count)],
        "title": ["Ein schöner Titel"] * count,
        "text": [f"the text of chunk {number}" for number in range(count)],
        "metadata": [f'{{"number": {number}}}' for number in range(count)],
        "start_at": [0] * count,
        "end_at": [17] * count,
        "content_hash": [None if number % 2 else bytes(16) for number in range(count)],
        "embedding": embedding_array(embeddings),
    }
    arrays = [pa.array(value, schema.field(name).type) for name, value in (made | columns).items()]
    return pa.record_batch(arrays, schema)


def written(batches: Iterable[pa.RecordBatch], precision: Precision = "half") -> bytes:
    """Return the file that our writer makes."""
    sink = io.BytesIO()
    write_chunks(sink, chunk_schema(DIMENSION, precision), batches)
    return sink.getvalue()


def written_by_others(rows: pa.RecordBatch, **options: Any) -> bytes:
    """Return the file that pyarrow makes, told to write as we do but for some options."""
    sink = io.BytesIO()
    schema = rows.schema
    with pq.ParquetWriter(sink, schema, **(OURS | options)) as writer:
        writer.write_batch(rows)
        writer.add_key_value_metadata(schema.metadata or {})
    return sink.getvalue()


def listed(data: bytes, rows: int, first_id: int | None = 1, last_id: int | None = None) -> ShardFile:
    """Return what a manifest says of a file of chunks whose ids have no gaps."""
    if last_id is None and first_id is not None:
        last_id = first_id + rows - 1
    return ShardFile(
        name="c1-chunks-000001.parquet",
        kind="chunks",
        rows=rows,
        size_bytes=len(data),
        sha256="0" * 64,
        first_id=first_id,
        last_id=last_id,
    )


def with_footer(data: bytes, footer: bytes, before: bytes = b"") -> bytes:
    """Return a file with another footer, and more before it."""
    size = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - size] + before + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def footer_of(data: bytes) -> bytes:
    """Return a file's footer: FileMetaData in Thrift's compact protocol."""
    return data[-8 - int.from_bytes(data[-8:-4], "little") : -8]


def zigzag(number: int) -> bytes:
    """Return a number, not negative, as Thrift's compact protocol writes it."""
    number, coded = number << 1, bytearray()
    while number >= 0x80:
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*coded, number])
