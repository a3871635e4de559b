"""The user's own embeddings in bulk: checked whole, then written slice by slice, each slice durable by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
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
from backends.vectors import prepare_kept
from retrieval.checking import check_distinct, check_id, check_list
from retrieval.documents import UpsertResult

ROWS_PER_TRANSACTION = 20_000


@dataclass(frozen=True, slots=True)
class BulkRows:
    """Checked rows in the order of their ids, embeddings prepared in the dtype kept [n, d], metadata as JSON text."""

    ids: list[str]
    embeddings: NDArray[np.floating[Any]]
    texts: list[str]
    metadata: list[str]


def check_bulk(
    ids: Sequence[str],
    embeddings: object,
    texts: Sequence[str],
    metadata: Sequence[dict[str, Any]] | None,
    collection: CollectionState,
) -> BulkRows:
    """Check everything before anything is written; raises InvalidDocument, InvalidEmbedding or DuplicateId."""
    check_list(ids, "ids")
    check_list(texts, "texts")
    ids = list(ids)
    given = [{}] * len(ids) if metadata is None else list(metadata)
    for name, values in (("texts", texts), ("metadata", given)):
        if len(values) != len(ids):
            raise InvalidInput(name, f"found {len(values)}; needed {len(ids)}, one for each of ids")
    rows = enumerate(zip(ids, texts, given, strict=True))
    json_texts = [_check_row(position, id_, text, one) for position, (id_, text, one) in rows]
    check_distinct(ids, "ids")
    prepared = prepare_kept(embeddings, collection.spec)
    if len(prepared) != len(ids):
        raise InvalidEmbedding("embeddings", f"found {len(prepared)} rows; needed {len(ids)}, one for each of ids")
    return _sorted(ids, prepared, list(texts), json_texts)


def upsert_bulk(database: Database, collection: CollectionState, rows: BulkRows, tail_limit: int) -> UpsertResult:
    """Write checked rows, each one document of one chunk, replacing those that are there.

    Where an index follows from outside the corpus, in slices that keep its tail short.
    """
    in_corpus = collection.backend == PgvectorIndex.name
    rows_per_transaction = ROWS_PER_TRANSACTION if in_corpus else min(tail_limit, ROWS_PER_TRANSACTION)
    for start in range(0, len(rows.ids), rows_per_transaction):
        part = slice(start, start + rows_per_transaction)
        write(database, collection, lambda transaction, part=part: _write(transaction, rows, part), tail_limit)  # type: ignore[misc]  # bound now, on purpose
    return UpsertResult(upserted=len(rows.ids), unchanged=0, chunks=len(rows.ids))


def _write(transaction: WriteTransaction, rows: BulkRows, part: slice) -> None:
    ids, texts = rows.ids[part], rows.texts[part]
    present = list(transaction.lock_states(ids))
    if present:
        transaction.delete_documents(present)
    zeros, empty = [0] * len(ids), [""] * len(ids)
    chunks = ChunkRows(
        document_ids=ids,
        ordinals=zeros,
        titles=empty,
        texts=texts,
        metadata=rows.metadata[part],
        starts=zeros,
        ends=[len(text) for text in texts],
        content_hashes=[b""] * len(ids),
    )
    transaction.insert(chunks, rows.embeddings[part])


def _check_row(position: int, id_: object, text: object, metadata: object) -> str:
    check_id(id_, f"ids[{position}]")
    if not isinstance(text, str):
        raise InvalidDocument(f"texts[{position}]", f"found {type(text).__name__}; needed a string")
    check_text(text, f"texts[{position}]", InvalidDocument)
    return check_metadata(metadata, f"metadata[{position}]")


def _sorted(ids: list[str], embeddings: NDArray[np.floating[Any]], texts: list[str], metadata: list[str]) -> BulkRows:
    order = sorted(range(len(ids)), key=ids.__getitem__)  # code points and UTF-8 bytes sort alike
    if order == list(range(len(ids))):
        return BulkRows(ids, embeddings, texts, metadata)
    return BulkRows(
        [ids[i] for i in order], embeddings[np.array(order)], [texts[i] for i in order], [metadata[i] for i in order]
    )
