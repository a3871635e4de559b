"""The Parquet files of a backup: rows of chunks with their embeddings, and runs of ids.

A chunk's embedding is its values in little-endian order, in a column of fixed width: a list column of float16 is
written seven times slower. The file's own metadata names the dtype and the dimension, so that two lines of NumPy read
the column of any shard, `table` being what pyarrow reads from it:

    kept = np.dtype(table.schema.metadata[b"embedding_dtype"].decode())
    embeddings = np.array([np.frombuffer(value, kept) for value in table["embedding"].to_pylist()])
"""

import io
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from backends.corpus.arrow import CHUNK_COLUMNS
from backends.errors import BackupDamaged
from backends.types import Ids, Precision
from backends.vectors import KEPT
from ops.backup.manifest import ShardFile
from ops.backup.pages import MAX_GROUP_BYTES, is_packed, open_checked, read_group
from ops.backup.runs import Runs

RUNS_SCHEMA = pa.schema([pa.field("first", pa.int64(), nullable=False), pa.field("last", pa.int64(), nullable=False)])
RUNS_PER_GROUP = 1 << 20
MAX_ID_BYTES = 1_024
HASH_BYTES = 16
ZSTD_LEVEL = 1
"""Level 3 writes a quarter slower and saves a fiftieth."""

_EXPONENT_BITS = {"<f2": 0x7C00, "<f4": 0x7F80_0000}
"""All of them set: infinite, or not a number."""


def chunk_schema(dimension: int, precision: Precision) -> pa.Schema:
    """Return the columns of a chunk shard: those of a chunk table, and the embedding."""
    kept = np.dtype(KEPT[precision]).newbyteorder("<")
    width = pa.binary(dimension * kept.itemsize)
    metadata = {"embedding_dtype": f"<{kept.kind}{kept.itemsize}", "embedding_dimension": str(dimension)}
    return CHUNK_COLUMNS.append(pa.field("embedding", width, nullable=False)).with_metadata(metadata)


def embedding_array(embeddings: NDArray[np.floating[Any]]) -> pa.FixedSizeBinaryArray:
    """Return embeddings, float16 or float32 [n, d] in any byte order, as a shard's column.

    Shares the memory of an array that is contiguous and little-endian.
    """
    count, dimension = embeddings.shape
    kept = np.ascontiguousarray(embeddings, embeddings.dtype.newbyteorder("<"))
    width = pa.binary(dimension * kept.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(width, count, [None, pa.py_buffer(kept)])


def embeddings_of(batch: pa.RecordBatch) -> NDArray[np.floating[Any]]:
    """Return the embeddings of rows as `read_chunks` gives them: float16 or float32 [n, d], in the rows' own memory."""
    kept = np.dtype(batch.schema.metadata[b"embedding_dtype"].decode())
    column = batch.column("embedding")
    width = column.type.byte_width
    values = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    values = values[column.offset * width : (column.offset + len(batch)) * width]
    embeddings: NDArray[np.floating[Any]] = values.view(kept).reshape(len(batch), width // kept.itemsize)
    return embeddings


def write_chunks(sink: io.RawIOBase | io.BufferedIOBase, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write rows of `chunk_schema` (or of `RUNS_SCHEMA`), a row group for each batch, and return how many.

    16 MiB a batch suit readers and memory; one that is larger than a reader takes is cut. A few hundred batches go into
    one file: `pages.MAX_FOOTER_BYTES` is for as many. `sink` stays open.
    """
    packed = [field.name for field in schema if is_packed(field)]
    rows = 0
    with pq.ParquetWriter(
        sink,
        schema,
        compression={name: "ZSTD" if name in packed else "NONE" for name in schema.names},
        compression_level=dict.fromkeys(packed, ZSTD_LEVEL),
        data_page_version="1.0",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    ) as writer:
        for batch in chain.from_iterable(map(_readable, batches)):
            writer.write_batch(batch, row_group_size=len(batch))
            rows += len(batch)
        writer.add_key_value_metadata(schema.metadata or {})
    return rows


def _readable(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a batch, none if it is empty, its halves if it is too large: half the limit is far from any rounding."""
    half = len(batch) // 2
    if half and batch.nbytes > MAX_GROUP_BYTES // 2:
        yield from chain(_readable(batch.slice(0, half)), _readable(batch.slice(half)))
    elif len(batch):
        yield batch


def read_chunks(
    data: bytes, file: ShardFile, where: str, dimension: int, precision: Precision
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a chunk shard, a row group at a time, each checked before it comes.

    Raises BackupDamaged, naming `where`, unless the shard holds exactly `chunk_schema`, as many rows as `file` says,
    ids that ascend from its first to its last, and values that a corpus can take.
    """
    parquet = open_checked(data, where, chunk_schema(dimension, precision), file.rows)
    last = -1
    for number in range(parquet.num_row_groups):
        batch = read_group(parquet, number, where)
        ids = batch.column("id").to_numpy()
        if ids[0] <= last or (ids[1:] <= ids[:-1]).any():
            raise BackupDamaged(where, "found ids that do not ascend; needed each greater than the one before")
        last = int(ids[-1])
        if number == 0:
            _check_bound(where, "first", int(ids[0]), file.first_id)
        if number == parquet.num_row_groups - 1:
            _check_bound(where, "last", last, file.last_id)
        _check_rows(batch, where)
        yield batch


def runs_bytes(first: Ids, last: Ids) -> bytes:
    """Return the file that holds these runs of ids, int64 [n] each."""
    runs = pa.record_batch([first, last], RUNS_SCHEMA)
    groups = (runs.slice(start, RUNS_PER_GROUP) for start in range(0, len(runs), RUNS_PER_GROUP))
    sink = io.BytesIO()
    write_chunks(sink, RUNS_SCHEMA, groups)
    return sink.getvalue()


def read_runs(data: bytes, file: ShardFile, where: str) -> tuple[Ids, Ids]:
    """Return the first and the last ids of the runs in a file, int64 [n] each.

    Raises BackupDamaged, naming `where`, unless they are as many as `file` says, ascend and leave gaps between.
    """
    parquet = open_checked(data, where, RUNS_SCHEMA, file.rows)
    groups = [read_group(parquet, number, where) for number in range(parquet.num_row_groups)]
    table = pa.Table.from_batches(groups, RUNS_SCHEMA)
    try:
        runs = Runs.from_arrays(table["first"].to_numpy(), table["last"].to_numpy())
    except ValueError as error:
        raise BackupDamaged(where, str(error)) from error
    return runs.first, runs.last


def _check_bound(where: str, which: str, found: int, needed: int | None) -> None:
    if found != needed:
        raise BackupDamaged(where, f"found the {which} id {found}; needed {needed}, as the manifest says")


def _check_rows(batch: pa.RecordBatch, where: str) -> None:
    """Refuse what PostgreSQL would refuse, or what no corpus gave."""
    for name, is_wrong, needed in _CHECKS:
        _refuse(batch, where, name, is_wrong(batch.column(name)), needed)
    kept = batch.schema.metadata[b"embedding_dtype"].decode()
    bits = embeddings_of(batch).view(kept.replace("f", "u"))
    exponent = bits & _EXPONENT_BITS[kept]
    if exponent.max() == _EXPONENT_BITS[kept]:
        is_wrong = pa.array((exponent == _EXPONENT_BITS[kept]).any(axis=1))
        _refuse(batch, where, "embedding", is_wrong, "finite numbers")


def _refuse(batch: pa.RecordBatch, where: str, name: str, is_wrong: pa.BooleanArray, needed: str) -> None:
    at = is_wrong.index(True).as_py()
    if at >= 0:
        id_ = batch.column("id")[at]
        raise BackupDamaged(where, f"found another {name} in the row of id {id_}; needed {needed}")


def _is_negative(column: pa.Array) -> pa.BooleanArray:
    return pc.less(column, 0)


def _is_no_id(column: pa.Array) -> pa.BooleanArray:
    sizes = pc.binary_length(column)
    return pc.or_(pc.less(sizes, 1), pc.greater(sizes, MAX_ID_BYTES))


def _is_no_object(column: pa.Array) -> pa.BooleanArray:
    return pc.invert(pc.starts_with(column, "{"))


def _is_no_hash(column: pa.Array) -> pa.BooleanArray:
    sizes = pc.fill_null(pc.binary_length(column), 0)
    return pc.and_(pc.not_equal(sizes, 0), pc.not_equal(sizes, HASH_BYTES))


def _has_nul(column: pa.Array) -> pa.BooleanArray:
    """Look at all bytes at once before at each string: eight times as fast."""
    values = np.frombuffer(column.buffers()[2] or b"", np.uint8)
    if values.min(initial=1):
        return pa.array([], pa.bool_())
    return pc.match_substring(column, "\0")


_CHECKS: list[tuple[str, Callable[[pa.Array], pa.BooleanArray], str]] = [
    ("document_id", _is_no_id, f"1 to {MAX_ID_BYTES} bytes"),
    ("document_id", _has_nul, "text without NUL"),
    ("ordinal", _is_negative, "0 or more"),
    ("title", _has_nul, "text without NUL"),
    ("text", _has_nul, "text without NUL"),
    ("metadata", _has_nul, "text without NUL"),
    ("metadata", _is_no_object, "a JSON object"),
    ("start_at", _is_negative, "0 or more"),
    ("end_at", _is_negative, "0 or more"),
    ("content_hash", _is_no_hash, f"{HASH_BYTES} bytes or none"),
]
