"""What a library must do to be measured: load rows, search them, say how large it is."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]
Metric = Literal["cosine", "l2"]

HNSW_M = 16
HNSW_EF_CONSTRUCTION = 64


@dataclass(frozen=True)
class Rows:
    """What is stored: `ids` are unique, `embeddings` float32 [n, d], `numbers` int64 [n] the metadata {"n": number}."""

    ids: list[str]
    embeddings: Embeddings
    texts: list[str]
    numbers: npt.NDArray[np.int64]
    metric: Metric

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.embeddings), len(self.texts), len(self.numbers)}
        if len(lengths) != 1:
            raise ValueError(f"ids, embeddings, texts and numbers differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        """Components of one embedding."""
        return int(self.embeddings.shape[1])

    def metadata(self) -> list[dict[str, int]]:
        """One dictionary a row, as users hand it over."""
        return [{"n": number} for number in self.numbers.tolist()]


@dataclass(frozen=True)
class Below:
    """The filter: only rows whose metadata "n" is less than `bound`."""

    bound: int


@dataclass(frozen=True)
class Place:
    """Where a peer may keep its data: a PostgreSQL (its role may create extensions), and an empty folder."""

    postgres_url: str | None
    folder: Path

    @property
    def url(self) -> str:
        """The PostgreSQL, for a peer that cannot do without."""
        if self.postgres_url is None:
            raise ValueError("this peer needs a PostgreSQL with pgvector; give its URL")
        return self.postgres_url


class Peer(ABC):
    """One library, used as its users use it, with ready embeddings. A module's class `PEER` is what its worker opens.

    Its HNSW index, where it has one and lets it be set, is made with HNSW_M and HNSW_EF_CONSTRUCTION.
    """

    name: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]] = ()  # whose versions are recorded
    metrics: ClassVar[tuple[Metric, ...]] = ("cosine", "l2")
    has_filters: ClassVar[bool] = True
    has_effort: ClassVar[bool] = True  # else one point of recall is all that it offers
    has_batches: ClassVar[bool] = False  # else search_many is a loop

    def __init__(self, place: Place) -> None:
        self.place = place
        self.stored_at_s: float | None = None

    @abstractmethod
    def load(self, rows: Rows) -> None:
        """Store the rows; whoever searches after the return searches all of them, by the index."""

    def note_stored(self) -> None:
        """Note, within `load`, that every row is there and a search finds it, though no index has them yet."""
        self.stored_at_s = time.perf_counter()

    @abstractmethod
    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> Sequence[str]:
        """Return the ids of the nearest rows to `embedding`, float32 [d], nearest first.

        Text and metadata of each are fetched, too, in whatever form the library gives them to its users. `effort`
        is ef_search, None the library's own; it is set outside the clock where that is how users do it (`prepare`).
        """

    def search_many(self, embeddings: Embeddings, top_k: int, effort: int | None) -> Sequence[Sequence[str]]:
        """The same for float32 [q, d], in one call where the library has one."""
        return [self.search(embedding, top_k, effort, None) for embedding in embeddings]

    def shaped(self, queries: Embeddings) -> Embeddings:
        """Return the queries as `search` is to be given them, once the rows are loaded; the clock does not run.

        For what only finds: whoever asks it normalises and checks a query before, and is measured with that.
        """
        return queries

    def prepare(self, effort: int | None) -> None:  # noqa: B027  # most have nothing to do
        """Set the effort of the searches that follow, where that is a setting of the session or of the index."""

    def size_bytes(self) -> int | None:
        """What rows and index take on disk, or in memory where they are there alone; None where nobody can say."""
        return None

    def close(self) -> None:  # noqa: B027  # most have nothing to do
        """Give back connections and processes; what was stored may stay."""


def blocks(rows: Rows, block: int) -> list[slice]:
    """Cut the rows into slices of at most `block`, as bulk loads do."""
    return [slice(start, min(start + block, len(rows))) for start in range(0, len(rows), block)]


def folder_bytes(folder: Path) -> int:
    """What the files of a folder take, in bytes of their lengths."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


Json = dict[str, Any]
