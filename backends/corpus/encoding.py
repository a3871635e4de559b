"""PostgreSQL's binary COPY format, whole batches at a time.

The format: https://www.postgresql.org/docs/current/sql-copy.html ("Binary Format"). A halfvec or vector is its
dimension as uint16, an unused uint16, then its values, all big-endian.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.types import Ids, Precision

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

_ID_AND_DOCUMENT = struct.Struct(">hiqi")
_ORDINAL_AND_TITLE = struct.Struct(">iii")
_LENGTH = struct.Struct(">i")
_JSONB = struct.Struct(">ib")
_SPAN_AND_HASH = struct.Struct(">iiiii")
_COLUMNS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRows:
    """Rows of a chunk table, column by column, all of one length; `metadata` is JSON text.

    `content_hashes` holds 16 bytes a row, or b"" for an embedding that the user made.
    """

    document_ids: Sequence[str]
    ordinals: Sequence[int]
    titles: Sequence[str]
    texts: Sequence[str]
    metadata: Sequence[str]
    starts: Sequence[int]
    ends: Sequence[int]
    content_hashes: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.document_ids)

    def part(self, start: int, end: int) -> "ChunkRows":
        """Return rows `start` to `end`."""
        return ChunkRows(
            document_ids=self.document_ids[start:end],
            ordinals=self.ordinals[start:end],
            titles=self.titles[start:end],
            texts=self.texts[start:end],
            metadata=self.metadata[start:end],
            starts=self.starts[start:end],
            ends=self.ends[start:end],
            content_hashes=self.content_hashes[start:end],
        )


def encode_embeddings(ids: Ids, embeddings: NDArray[np.floating[Any]], precision: Precision) -> bytes:
    """Encode rows (chunk_id bigint, embedding halfvec or vector) without header and trailer.

    `embeddings` is prepared, float32 or the dtype kept, [n, d].
    """
    value = np.dtype(">f2") if precision == "half" else np.dtype(">f4")
    dimension = embeddings.shape[1]
    row = embedding_row(dimension, value)
    rows = np.empty(len(ids), row)
    rows["columns"], rows["id_size"], rows["unused"] = 2, 8, 0
    rows["embedding_size"] = 4 + dimension * value.itemsize
    rows["dimension"] = dimension
    rows["id"] = ids
    rows["values"] = embeddings
    return rows.tobytes()


def embedding_row(dimension: int, value: np.dtype[Any]) -> np.dtype[Any]:
    """Return a row of an embedding table as it stands in the format; `value` is the big-endian type of a value."""
    return np.dtype(
        [
            ("columns", ">i2"),
            ("id_size", ">i4"),
            ("id", ">i8"),
            ("embedding_size", ">i4"),
            ("dimension", ">u2"),
            ("unused", ">u2"),
            ("values", value, (dimension,)),
        ]
    )


def encode_chunks(ids: Ids, rows: ChunkRows) -> bytes:
    """Encode rows of a chunk table, in the order of its columns, without header and trailer."""
    pieces: list[bytes] = []
    columns = zip(
        ids.tolist(),
        rows.document_ids,
        rows.ordinals,
        rows.titles,
        rows.texts,
        rows.metadata,
        rows.starts,
        rows.ends,
        rows.content_hashes,
        strict=True,
    )
    for id_, document_id, ordinal, title, text, metadata, start, end, content_hash in columns:
        document_id_, title_, text_, metadata_ = (
            document_id.encode(),
            title.encode(),
            text.encode(),
            metadata.encode(),
        )
        pieces += (
            _ID_AND_DOCUMENT.pack(_COLUMNS, 8, id_, len(document_id_)),
            document_id_,
            _ORDINAL_AND_TITLE.pack(4, ordinal, len(title_)),
            title_,
            _LENGTH.pack(len(text_)),
            text_,
            _JSONB.pack(len(metadata_) + 1, 1),
            metadata_,
            _SPAN_AND_HASH.pack(4, start, 4, end, len(content_hash) or -1),
            content_hash,
        )
    return b"".join(pieces)
