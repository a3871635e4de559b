"""The user's own embeddings in bulk: checked whole, then written slice by slice, each slice durable by itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.encoding import ChunkRows
from backends.corpus.writing import WriteTransaction, write
from backends.errors import InvalidDocument, InvalidEmbedding, InvalidInput
from backends.filters import check_metadata, check_text
from backends.pgvector import PgvectorIndex
from backends.types import IndexSpec
from backends.vectors import prepare_kept
from retrieval.checking import MAX_ID_BYTES, check_distinct, check_id, check_list
from retrieval.documents import UpsertResult
from retrieval.plain_rows import are_texts, are_usable, flat_metadata

ROWS_PER_TRANSACTION = 20_000


@dataclass(frozen=True, slots=True)
class BulkEmbeddings:
    """Embeddings [n, d] in the order of their ids, in the dtype kept: prepared when they are asked for.

    So they are not there twice, and PostgreSQL takes some while others are prepared. `matrix` has the rows in the
    order of `order`, if given; without `spec` it is prepared already.
    """

    matrix: NDArray[Any]
    spec: IndexSpec | None = None
    order: NDArray[np.intp] | None = None

    def __getitem__(self, rows: slice) -> NDArray[np.floating[Any]]:
        part = self.matrix[rows if self.order is None else self.order[rows]]
        if self.spec is None or self.spec.metric != "cosine":
            return part  # nothing is left but rounding, which is encoding's
        return prepare_kept(part, self.spec)

    def part(self, rows: slice) -> "BulkEmbeddings":
        """Return some of them, not prepared yet."""
        if self.order is None:
            return replace(self, matrix=self.matrix[rows])
        return replace(self, order=self.order[rows])


@dataclass(frozen=True, slots=True)
class BulkRows:
    """Checked rows in the order of their ids, each one document of one chunk."""

    chunks: ChunkRows
    embeddings: BulkEmbeddings

    def __len__(self) -> int:
        return len(self.chunks)


def check_bulk(
    ids: Sequence[str],
    embeddings: object,
    texts: Sequence[str],
    metadata: Sequence[dict[str, Any]] | None,
    collection: CollectionState,
) -> BulkRows:
    """Check everything before anything is written; raises InvalidDocument, InvalidEmbedding or DuplicateId.

    `embeddings` are read again when they are written: leave the array as it is meanwhile.
    """
    check_list(ids, "ids")
    check_list(texts, "texts")
    ids, texts = list(ids), list(texts)
    given = [{}] * len(ids) if metadata is None else list(metadata)
    for name, values in (("texts", texts), ("metadata", given)):
        if len(values) != len(ids):
            raise InvalidInput(name, f"found {len(values)}; needed {len(ids)}, one for each of ids")
    json_texts = _check_rows(ids, texts, given)
    check_distinct(ids, "ids")
    checked = _check_embeddings(embeddings, collection.spec)
    if len(checked.matrix) != len(ids):
        raise InvalidEmbedding(
            "embeddings", f"found {len(checked.matrix)} rows; needed {len(ids)}, one for each of ids"
        )
    return _sorted(ids, checked, texts, json_texts)


def upsert_bulk(database: Database, collection: CollectionState, rows: BulkRows, tail_limit: int) -> UpsertResult:
    """Write checked rows, each one document of one chunk, replacing those that are there.

    Where an index follows from outside the corpus, in slices that keep its tail short.
    """
    in_corpus = collection.backend == PgvectorIndex.name
    rows_per_transaction = ROWS_PER_TRANSACTION if in_corpus else min(tail_limit, ROWS_PER_TRANSACTION)
    for start in range(0, len(rows), rows_per_transaction):
        end = start + rows_per_transaction
        chunks, embeddings = rows.chunks.part(start, end), rows.embeddings.part(slice(start, end))

        def edit(
            transaction: WriteTransaction, chunks: ChunkRows = chunks, embeddings: BulkEmbeddings = embeddings
        ) -> None:
            transaction.delete_documents(chunks.document_ids)
            transaction.insert(chunks, embeddings)

        write(database, collection, edit, tail_limit)
    return UpsertResult(upserted=len(rows), unchanged=0, chunks=len(rows))


def _check_rows(ids: list[str], texts: list[str], metadata: list[dict[str, Any]]) -> list[str]:
    """Return the metadata as JSON text."""
    if are_texts(ids, MAX_ID_BYTES) and are_texts(texts) and (plain := flat_metadata(metadata)) is not None:
        return plain
    return [_check_row(position, *row) for position, row in enumerate(zip(ids, texts, metadata, strict=True))]


def _check_row(position: int, id_: object, text: object, metadata: object) -> str:
    check_id(id_, f"ids[{position}]")
    if not isinstance(text, str):
        raise InvalidDocument(f"texts[{position}]", f"found {type(text).__name__}; needed a string")
    check_text(text, f"texts[{position}]", InvalidDocument)
    return check_metadata(metadata, f"metadata[{position}]")


def _check_embeddings(given: object, spec: IndexSpec) -> BulkEmbeddings:
    if isinstance(given, np.ndarray) and are_usable(matrix := np.asarray(given), spec):
        return BulkEmbeddings(matrix, spec)
    return BulkEmbeddings(prepare_kept(given, spec))


def _sorted(ids: list[str], embeddings: BulkEmbeddings, texts: list[str], metadata: list[str]) -> BulkRows:
    order = sorted(range(len(ids)), key=ids.__getitem__)  # code points and UTF-8 bytes sort alike
    if order != list(range(len(ids))):
        ids, texts, metadata = ([values[i] for i in order] for values in (ids, texts, metadata))
        embeddings = replace(embeddings, order=np.array(order))
    zeros = [0] * len(ids)
    chunks = ChunkRows(
        document_ids=ids,
        ordinals=zeros,
        titles=[""] * len(ids),
        texts=texts,
        metadata=metadata,
        starts=zeros,
        ends=[len(text) for text in texts],
        content_hashes=[b""] * len(ids),
    )
    return BulkRows(chunks, embeddings)
