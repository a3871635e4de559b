"""The value types that backends share. Each checks itself, so that the rest can trust it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from backends.errors import InvalidInput

Metric = Literal["cosine", "inner_product", "l2"]
Precision = Literal["half", "single"]
Ids = NDArray[np.int64]
Embeddings = NDArray[np.float32]

MAX_DIMENSION: dict[Precision, int] = {"half": 4_000, "single": 2_000}
"""What pgvector's HNSW can index: https://github.com/pgvector/pgvector#hnsw"""


Progress = Callable[[int], None]
"""Told now and then how many more chunks an index holds; may raise, to end what is under way."""


def nobody(_: int) -> None:
    """The Progress of whoever does not want to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSpec:
    """What a vector index holds: embeddings of one dimension, compared by one metric."""

    dimension: int
    metric: Metric = "cosine"
    precision: Precision = "half"

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise InvalidInput("metric", f"found {self.metric!r}; needed one of {', '.join(get_args(Metric))}")
        if self.precision not in get_args(Precision):
            raise InvalidInput("precision", f"found {self.precision!r}; needed one of {', '.join(get_args(Precision))}")
        limit = MAX_DIMENSION[self.precision]
        if not 1 <= self.dimension <= limit:
            raise InvalidInput(
                "dimension", f"found {self.dimension}; needed 1 to {limit} with precision {self.precision!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexIdentity:
    """Whose index it is. An index that says otherwise than the corpus is rebuilt, never searched.

    `system_identifier` is PostgreSQL's, mixed with the database: a server may hold a corpus in each.
    `index_id` is the corpus's row for this index, never used twice: an index built anew beside an old one has
    another.
    """

    collection_id: int
    system_identifier: int
    timeline: int
    index_id: int

    @property
    def name(self) -> str:
        """What a store calls the index: letters, digits and hyphens, and no other index's."""
        return f"ragstone-{self.system_identifier & (1 << 64) - 1:x}-{self.collection_id:x}-{self.index_id:x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Chunks for an index: ids int64 [n], embeddings float32 [n, d], attributes (metadata) of length n."""

    ids: Ids
    embeddings: Embeddings
    attributes: list[dict[str, Any]]

    def __post_init__(self) -> None:
        assert self.ids.dtype == np.int64
        assert self.embeddings.dtype == np.float32
        assert len(self.ids) == len(self.embeddings) == len(self.attributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Everything that one transaction did to a collection: number `sequence` of its change sequence."""

    sequence: int
    upserts: Batch
    deletes: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What an index proposes for each query, nearest first: ids int64 and scores float32, of equal length.

    `applied` is the number of the change sequence up to which every change was visible to this search.
    """

    ids: list[Ids]
    scores: list[NDArray[np.float32]]
    applied: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do, as data.

    filters: operators whose meaning the index can match or exceed (a superset; the corpus decides).
    selects_ids: a search can be told which ids alone it may propose.
    in_corpus: the index lives in the corpus's database and is never behind it.
    shared: the index lives in a store that all processes reach; else each process has a copy of its own.
    exact: every embedding is compared.
    snapshots: a copy can be saved to files, from which the next process goes on.
    """

    filters: frozenset[str] = frozenset()
    selects_ids: bool = False
    in_corpus: bool = False
    shared: bool = False
    exact: bool = False
    snapshots: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStats:
    """How an index stands. `size_bytes` is what it takes where it lives; `ready` says that it can be searched."""

    count: int
    applied: int
    size_bytes: int
    ready: bool
    details: dict[str, Any] = field(default_factory=dict)
