"""Our chunks and filters in Pinecone's form, and within its limits.

Limits: https://docs.pinecone.io/reference/api/database-limits/operation-limits
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.filters import Filter
from backends.tokens import Combined, HasToken, Narrowing, narrowing, tokens_of
from backends.types import Batch, Embeddings, Ids, Metric

METRICS: dict[Metric, str] = {"cosine": "cosine", "inner_product": "dotproduct", "l2": "euclidean"}
UPSERT_ROWS = DELETE_IDS = 1_000
UPSERT_BYTES = 2_000_000
METADATA_BYTES = 40_960
LIST_IDS = 100
TOP_K = 10_000
FILTER_VALUES = 10_000
"""What `$in` and `$nin` may list. A filter of ours has at most MAX_CONDITIONS, which is far fewer."""

TOKENS = "tokens"
PRESENT = "."
"""Every chunk has this token, so that none has an empty list: Pinecone does not say whether that passes `$nin`."""
TINY = 1e-18
"""Pinecone refuses zero vectors. This as one component is none, its square is still a normal float32, and neither
an inner product nor a distance shows it."""

_NUMBER_BYTES = 24  # a float32 written as a float64: -1.1754943508222875e-38 and a comma
_TOKEN_BYTES = 19  # sixteen characters, quotes and a comma
_ROW_BYTES = 80  # braces, names, the id


@dataclass(frozen=True, slots=True)
class Rows:
    """Chunks on their way to Pinecone: ids int64 [n], embeddings float32 [n, d], n lists of tokens."""

    ids: Ids
    embeddings: Embeddings
    tokens: list[list[str]]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """How much memory the embeddings take."""
        return int(self.embeddings.nbytes)

    def vectors(self) -> list[tuple[str, list[float], dict[str, Any]]]:
        """Write them as the SDK takes them."""
        values = without_zeros(self.embeddings).tolist()
        return [
            (str(id_), row, {TOKENS: tokens})
            for id_, row, tokens in zip(self.ids.tolist(), values, self.tokens, strict=True)
        ]


def rows_of(batch: Batch) -> Rows:
    """Prepare chunks; their attributes become tokens."""
    return Rows(batch.ids, batch.embeddings, [[PRESENT, *tokens_of(attributes)] for attributes in batch.attributes])


def joined(parts: Sequence[Rows]) -> Rows:
    """Bring rows together in their order; at least one part."""
    return Rows(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.embeddings for part in parts]),
        [tokens for part in parts for tokens in part.tokens],
    )


def requests_of(rows: Rows) -> Iterator[Rows]:
    """Cut rows so that each part fits into one upsert, by count and by bytes of JSON at their longest."""
    embedding_bytes = _ROW_BYTES + _NUMBER_BYTES * rows.embeddings.shape[1]
    start = size_bytes = 0
    for row, tokens in enumerate(rows.tokens):
        row_bytes = embedding_bytes + _TOKEN_BYTES * len(tokens)
        if row - start == UPSERT_ROWS or size_bytes + row_bytes > UPSERT_BYTES:
            yield _part(rows, start, row)
            start, size_bytes = row, 0
        size_bytes += row_bytes
    if start < len(rows):
        yield _part(rows, start, len(rows))


def _part(rows: Rows, start: int, end: int) -> Rows:
    return Rows(rows.ids[start:end], rows.embeddings[start:end], rows.tokens[start:end])


def without_zeros(embeddings: Embeddings) -> Embeddings:
    """Return the embeddings with TINY as the first component of those that are zero."""
    zero = ~embeddings.any(axis=1)
    if not zero.any():
        return embeddings
    changed = embeddings.copy()
    changed[zero, 0] = TINY
    return changed


def pinecone_filter(filter: Filter | None) -> dict[str, Any] | None:
    """Write what tokens can say of a filter in Pinecone's language; None where that is everything.

    A list in the metadata has what `$in` asks for when one of its elements is listed, and passes `$nin` when
    none is: https://docs.pinecone.io/guides/search/filter-by-metadata
    """
    tree = narrowing(filter)
    return None if tree is None else _written(tree)


def _written(tree: Narrowing) -> dict[str, Any]:
    match tree:
        case HasToken(tokens, negated):
            return {TOKENS: {"$nin" if negated else "$in": list(tokens)}}
        case Combined(operator, parts):
            return {f"${operator}": [_written(part) for part in parts]}


def scores_of(found: Sequence[float], metric: Metric) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Turn Pinecone's scores into ours, float32. Its `euclidean` gives the square of the distance.

    https://docs.pinecone.io/guides/index-data/indexing-overview#distance-metrics
    """
    scores = np.array(found, dtype=np.float64)
    if metric == "l2":
        scores = -np.sqrt(np.maximum(scores, 0))
    return scores.astype(np.float32)
