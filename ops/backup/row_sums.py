"""What rows add up to: two sets of rows are compared in memory that does not grow with them.

Hashes of the rows are added up, in buckets by the chunk's public id, and only where two sums differ are the rows of
that bucket laid beside each other.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

BUCKETS = 4_096


class Sums:
    """What rows add up to, in whatever order they come: how many, and hashes of 128 bits, summed in two halves."""

    def __init__(self) -> None:
        self.documents = 0
        self.chunks = 0
        self._hashes = np.zeros((BUCKETS, 2), np.uint64)

    def add(self, rows: pa.RecordBatch) -> None:
        """Count and add the rows of a batch."""
        np.add.at(self._hashes, *hashed(rows))
        self.documents += int((rows.column("ordinal").to_numpy() <= 1).sum())
        self.chunks += len(rows)

    def first_difference(self, other: "Sums") -> int | None:
        """Return the first bucket whose rows are not the same, None where all are."""
        differing = (self._hashes != other._hashes).any(axis=1)
        return int(differing.argmax()) if differing.any() else None


def hashed(rows: pa.RecordBatch) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return the bucket [n] of each row, by document and ordinal, and the hash of all but its id, uint64 [n, 2].

    Metadata is compared as text: PostgreSQL's jsonb has one text for the same JSON.
    """
    data, bounds = _joined(rows)
    buckets = [crc32(data[start:key_end]) % BUCKETS for start, key_end, _ in bounds]
    hashes = b"".join(blake2b(data[start:end], digest_size=16).digest() for start, _, end in bounds)
    return np.array(buckets, np.int64), np.frombuffer(hashes, np.uint64).reshape(-1, 2)


def _joined(rows: pa.RecordBatch) -> tuple[memoryview, list[list[int]]]:
    """All bytes of the rows; of each row, where it begins, where what tells it from others ends, and where it ends.

    Sizes stand before what they are the sizes of: no two different rows have the same bytes.
    """
    document_id, *others, content_hash = (rows.column(name).cast(pa.binary()) for name in _VARIED)
    sizes = [pc.fill_null(pc.binary_length(column), -1) for column in (document_id, *others, content_hash)]
    key = _fixed(sizes[0], rows.column("ordinal"))
    rest = _fixed(*sizes[1:], rows.column("start_at"), rows.column("end_at"))
    joined = pc.binary_join_element_wise(key, document_id, rest, *others, pc.fill_null(content_hash, b""), b"")
    ends = np.cumsum(pc.binary_length(joined).to_numpy(), dtype=np.int64)
    starts = np.concatenate([[0], ends])[:-1]
    bounds = np.stack([starts, starts + 8 + sizes[0].to_numpy(), ends], axis=1)
    return memoryview(joined.buffers()[2] or b""), bounds.tolist()


_VARIED = ("document_id", "title", "text", "metadata", "embedding", "content_hash")


def _fixed(*columns: pa.Array) -> pa.BinaryArray:
    """Numbers of each row side by side, as 4 bytes each."""
    numbers = np.stack([column.to_numpy() for column in columns], axis=1).astype(np.int32)
    width = pa.binary(numbers.shape[1] * numbers.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(width, len(numbers), [None, pa.py_buffer(numbers)]).cast(pa.binary())


def rows_of(bucket: int, batches_: Iterable[pa.RecordBatch]) -> dict[str, dict[str, Any]]:
    """Return the rows of one bucket by their public ids."""
    picked = (rows.filter(pa.array(hashed(rows)[0] == bucket)) for rows in batches_)
    return {id_: row for rows in picked for id_, row in zip(public_ids(rows), rows.to_pylist(), strict=True)}


def difference(backed_up: dict[str, dict[str, Any]], restored: dict[str, dict[str, Any]]) -> str:
    """Say of one chunk, by public id, how the rows of the backup and the restored ones differ."""
    for id_ in sorted(backed_up.keys() | restored.keys()):
        if id_ not in restored:
            return f"chunk {id_!r} was not restored"
        if id_ not in backed_up:
            return f"chunk {id_!r} was restored, and is not in the backup"
        kept, found = backed_up[id_], restored[id_]
        differing = [name for name in kept if name != "id" and kept[name] != found[name]]
        if differing:
            return f"chunk {id_!r} was restored with another {' and '.join(differing)}"
    return "its rows differed, and did not when they were read again: check the memory and the disks of this machine"


def public_ids(rows: pa.RecordBatch) -> list[str]:
    """Return the ids by which users know the chunks."""
    pairs = zip(rows.column("document_id").to_pylist(), rows.column("ordinal").to_pylist(), strict=True)
    return [f"{document_id}#{ordinal}" if ordinal else document_id for document_id, ordinal in pairs]
