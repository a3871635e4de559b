"""The seam that every vector index stands behind."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from backends.filters import Filter
from backends.types import Batch, Candidates, Capabilities, Change, Embeddings, IndexIdentity, IndexSpec, IndexStats


class VectorIndex(ABC):
    """Finds the stored embeddings nearest to a query. It keeps nothing that the corpus does not have.

    Ids are the corpus's internal chunk ids, int64, never used twice. Embeddings are float32 [n, d], already
    prepared (`backends.vectors.prepare`); they are never changed in place. Scores are higher for nearer on every
    backend: cosine similarity, inner product, or minus the Euclidean distance. They are the index's own and may
    be rough: the corpus computes the exact ones.

    Consistency: `search` reports `applied`, the number of the collection's change sequence up to which every
    change was visible when it searched. Changes arrive in order. Applying one again changes nothing.

    Threads: any number may search at once, also while one (only one) thread builds or applies.

    Errors: IndexUnavailable where the index cannot be reached or is not this collection's; the driver's own
    errors never come through.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    spec: IndexSpec
    identity: IndexIdentity

    @abstractmethod
    def build(self, batches: Iterable[Batch], applied: int) -> None:
        """Replace what is there by these chunks, the collection as it was at number `applied`."""

    @abstractmethod
    def apply(self, changes: Sequence[Change]) -> int:
        """Apply changes in order, idempotently, and return the number now applied and visible."""

    @abstractmethod
    def search(
        self, queries: Embeddings, candidates: int, filter: Filter | None = None, effort: int | None = None
    ) -> Candidates:
        """Propose up to `candidates` chunks for each query, float32 [q, d], nearest first, never filler ids.

        A filter that the index can push down narrows what it proposes to a superset of what matches; one that
        it cannot is ignored. `effort` is the backend's own number (ef_search, nprobe); None takes its default.
        """

    @abstractmethod
    def stats(self) -> IndexStats:
        """Say how the index stands."""

    @abstractmethod
    def ping(self) -> None:
        """Raise IndexUnavailable where the index cannot be reached."""

    @abstractmethod
    def drop(self) -> None:
        """Remove the index and all it holds. The corpus is not touched."""

    def close(self) -> None:  # noqa: B027  # not every index holds something
        """Give back what this process holds of it. Calling it again does nothing."""
