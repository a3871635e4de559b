"""Rows of PostgreSQL's binary COPY format as Arrow columns and back, whole batches at a time.

The format: https://www.postgresql.org/docs/current/sql-copy.html ("Binary Format"). Each row is the number of its
fields as int16, then for each field its size as int32 (-1 for null) and its bytes, all big-endian. Rows are taken
apart and put together column by column, since a loop over rows would take longer than the COPY itself.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from backends.corpus.encoding import HEADER, TRAILER, embedding_row
from backends.types import Ids, Precision
from backends.vectors import KEPT

CHUNK_COLUMNS = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("start_at", pa.int32(), nullable=False),
        pa.field("end_at", pa.int32(), nullable=False),
        pa.field("content_hash", pa.binary()),
    ]
)
"""The columns of a chunk table, in its order; metadata is JSON text."""

_Bytes = NDArray[np.uint8]
_Positions = NDArray[np.int64]


def decode_chunks(messages: Sequence[bytes]) -> pa.RecordBatch:
    """Return the rows of a chunk table from what a COPY sent, one message a row, as `CHUNK_COLUMNS` says."""
    data, starts = _joined(messages)
    buffer = pa.py_buffer(data)
    fields = _fields(data, starts, len(CHUNK_COLUMNS))
    arrays = []
    for field, (begin, end, is_null) in zip(CHUNK_COLUMNS, fields, strict=True):
        if pa.types.is_integer(field.type):
            width = field.type.bit_width // 8
            arrays.append(pa.array(_gathered(data, begin, width).astype(f"i{width}"), field.type))
        else:
            first = begin + 1 if field.name == "metadata" else begin  # jsonb goes with its version before it
            arrays.append(_texts(buffer, first, end, is_null if field.nullable else None).cast(field.type))
    return pa.record_batch(arrays, CHUNK_COLUMNS)


def decode_embeddings(messages: Sequence[bytes], dimension: int, precision: Precision) -> tuple[Ids, NDArray[Any]]:
    """Return ids int64 [n] and embeddings [n, d], in the dtype kept, from what a COPY of an embedding table sent."""
    kept = np.dtype(KEPT[precision])
    row = embedding_row(dimension, kept.newbyteorder(">"))
    data = b"".join(messages)
    rows = np.frombuffer(data, row, offset=len(HEADER), count=(len(data) - len(HEADER) - len(TRAILER)) // row.itemsize)
    return rows["id"].astype(np.int64), rows["values"].astype(kept)


def encode_rows(ids: Ids, rows: pa.RecordBatch) -> pa.Buffer:
    """Return rows of a chunk table, with `ids` [n] for their own, as a COPY takes them, without header and trailer."""
    hashes = rows.column("content_hash")
    spans = [_int32s(rows, "start_at"), _int32s(rows, "end_at")]
    pieces = [
        _fixed(
            np.full(len(ids), 9, ">i2"), np.full(len(ids), 8, ">i4"), ids.astype(">i8"), _sizes(rows, "document_id")
        ),
        rows.column("document_id").cast(pa.binary()),
        _fixed(np.full(len(ids), 4, ">i4"), _int32s(rows, "ordinal"), _sizes(rows, "title")),
        rows.column("title").cast(pa.binary()),
        _fixed(_sizes(rows, "text")),
        rows.column("text").cast(pa.binary()),
        _fixed(_sizes(rows, "metadata", 1), np.ones(len(ids), "u1")),
        rows.column("metadata").cast(pa.binary()),
        _fixed(
            np.full(len(ids), 4, ">i4"), spans[0], np.full(len(ids), 4, ">i4"), spans[1], _sizes(rows, "content_hash")
        ),
        pc.fill_null(hashes, b""),
    ]
    joined = pc.binary_join_element_wise(*pieces, b"")
    offsets = np.frombuffer(joined.buffers()[1], np.int32)[joined.offset : joined.offset + len(ids) + 1]
    return joined.buffers()[2].slice(int(offsets[0]), int(offsets[-1] - offsets[0]))


def _joined(messages: Sequence[bytes]) -> tuple[_Bytes, _Positions]:
    """All bytes, and where each row begins: the server sends one message a row, the header before the first."""
    sizes = np.fromiter(map(len, messages), np.int64, len(messages))
    ends = np.cumsum(sizes)
    starts = np.concatenate([[len(HEADER)], ends[:-1]])[: len(messages) - 1] if len(messages) > 1 else ends[:0]
    return np.frombuffer(b"".join(messages), np.uint8), starts


def _fields(data: _Bytes, starts: _Positions, count: int) -> list[tuple[_Positions, _Positions, NDArray[np.bool_]]]:
    """Where each field of each row begins and ends, and where it is null."""
    found = []
    position = starts + 2
    for _ in range(count):
        sizes = _gathered(data, position, 4).astype(np.int64)
        begin = position + 4
        position = begin + np.maximum(sizes, 0)
        found.append((begin, position, sizes < 0))
    return found


def _gathered(data: _Bytes, positions: _Positions, width: int) -> NDArray[Any]:
    """Integers of `width` bytes, big-endian, from everywhere in the data."""
    everywhere: NDArray[Any] = np.ndarray((max(len(data) - width + 1, 0),), f">i{width}", data, strides=(1,))
    return everywhere[positions]


def _texts(
    data: pa.Buffer, begin: _Positions, end: _Positions, is_null: NDArray[np.bool_] | None
) -> pa.LargeBinaryArray:
    """One field of all rows, copied in one go: of an array of fields and the gaps between them, every second."""
    if not len(begin):
        return pa.array([], pa.large_binary())
    offsets = np.stack([begin, end], axis=1).ravel()
    both = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), data])
    every_second = pa.array(np.arange(0, len(offsets) - 1, 2), mask=is_null)
    return both.take(every_second)


def _int32s(rows: pa.RecordBatch, name: str) -> NDArray[Any]:
    values: NDArray[Any] = rows.column(name).to_numpy().astype(">i4")
    return values


def _sizes(rows: pa.RecordBatch, name: str, more: int = 0) -> NDArray[Any]:
    """The sizes of a column's values in bytes, -1 for null."""
    sizes: NDArray[np.int32] = pc.fill_null(pc.binary_length(rows.column(name)), -1).to_numpy()
    return (sizes + more).astype(">i4")


def _fixed(*columns: NDArray[Any]) -> pa.BinaryArray:
    """What stands before a field of varying size in each row."""
    rows = np.empty(len(columns[0]), [(f"f{number}", column.dtype) for number, column in enumerate(columns)])
    for number, column in enumerate(columns):
        rows[f"f{number}"] = column
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.dtype.itemsize
    return pa.BinaryArray.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(rows)])
