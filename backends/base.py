"""The seam that every vector index stands behind."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from backends.filters import Filter
from backends.types import (
    Batch,
    Candidates,
    Capabilities,
    Change,
    Embeddings,
    Ids,
    IndexIdentity,
    IndexSpec,
    IndexStats,
    Progress,
    nobody,
)


class VectorIndex(ABC):
    """Finds the stored embeddings nearest to a query. It keeps nothing that the corpus does not have.

    Ids are the corpus's internal chunk ids, int64, never used twice. Embeddings are float32 [n, d], already
    prepared (`backends.vectors.prepare`); they are never changed in place. Scores are higher for nearer on every
    backend: cosine similarity, inner product, or minus the Euclidean distance. They are the index's own and may
    be rough: the corpus computes the exact ones.

    Consistency: `search` reports `applied`, the number of the collection's change sequence up to which every
    change was visible when it searched. Changes arrive in order. Applying one again changes nothing.

    Identity: an index carries its identity where it keeps its data, written last. One that is not there, not
    whole or not this collection's says `ready=False` in its stats, and is built anew.

    Threads: any number may search at once, also while one (only one) thread builds, applies or saves.

    Errors: IndexUnavailable where the index cannot be reached, or has nothing that can be searched; the driver's
    own errors never come through.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    spec: IndexSpec
    identity: IndexIdentity

    @property
    def is_rough(self) -> bool:
        """Whether its scores are rougher than the corpus's: it is asked for many more candidates than hits then."""
        return True

    @abstractmethod
    def build(self, batches: Iterable[Batch], applied: int, progress: Progress = nobody) -> None:
        """Replace what is there by these chunks, the collection as it was at number `applied`.

        What `progress` raises ends the build; so does `close`, with IndexUnavailable. What was built so far is not
        ready then.
        """

    @abstractmethod
    def apply(self, changes: Sequence[Change]) -> int:
        """Apply changes in order, idempotently, and return the number now applied and visible."""

    @abstractmethod
    def search(
        self,
        queries: Embeddings,
        candidates: int,
        filter: Filter | None = None,
        effort: int | None = None,
        allowed: Ids | None = None,
    ) -> Candidates:
        """Propose up to `candidates` chunks for each query, float32 [q, d], nearest first, never filler ids.

        A filter that the index can push down narrows what it proposes to a superset of what matches; one that
        it cannot is ignored. `allowed`, int64 ascending, is given only where the capability `selects_ids` says so:
        no other id may be proposed. `effort` is the backend's own number (ef_search, nprobe); None takes its
        default.
        """

    @abstractmethod
    def ids(self) -> Iterator[Ids]:
        """Give every chunk id that the index holds, once, in any order: what a parity check compares."""

    @abstractmethod
    def stats(self) -> IndexStats:
        """Say how the index stands, as it is where it lives; raises IndexUnavailable."""

    @abstractmethod
    def ping(self) -> None:
        """Raise IndexUnavailable where the index cannot be reached."""

    @abstractmethod
    def drop(self) -> None:
        """Remove the index and all it holds. The corpus is not touched; what is gone already is no error."""

    def save(self) -> int:
        """Make what is applied durable, and return the number up to which a restart needs no change again."""
        return self.stats().applied

    def reload(self) -> None:  # noqa: B027  # not every index has files
        """Load what another process has saved since, where each process has a copy of its own."""

    def observe(self, applied: int) -> None:  # noqa: B027  # not every index is shared
        """Hear that whoever applies to this shared index has come to number `applied`."""

    def close(self) -> None:  # noqa: B027  # not every index holds something
        """Give back what this process holds of it, at any moment. Calling it again does nothing."""
