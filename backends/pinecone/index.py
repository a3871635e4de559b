"""A vector index in Pinecone.

One serverless Pinecone index holds the collections of one corpus that share a dimension and a metric, since an
account may have few; it is made on the first build and stays for good, also when the last of them is dropped.
Each of our indexes is a namespace of it, named by its identity.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from backends.base import VectorIndex
from backends.coalescing import coalesced
from backends.errors import IndexUnavailable
from backends.filters import OPERATORS, Filter
from backends.pinecone.connection import Connection, Reached, Target
from backends.pinecone.failures import NotThere
from backends.pinecone.marker import MARKER_ID, Marker, read_marker
from backends.pinecone.namespace import Namespace
from backends.pinecone.rows import (
    METRICS,
    TOP_K,
    Rows,
    joined,
    pinecone_filter,
    rows_of,
    scores_of,
    without_zeros,
)
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

HELD_BYTES = 32 * 2**20
"""A build keeps this much of embeddings until they are seen in Pinecone, to send them again if they are lost."""
QUERIES_AT_ONCE = 8
Match = tuple[str, float]
_NO_IDS: Ids = np.empty(0, np.int64)


class PineconeIndex(VectorIndex):
    """Chunks as vectors of one namespace, with tokens of their attributes to filter by.

    `host` is Pinecone's control plane; the index's own host is what that answers. Plain http is spoken to it where
    `host` says so. Nothing connects before it is needed. `timeout_s` bounds a search as a whole, and one try of
    anything else. `visible_timeout_s`, and some milliseconds for each row, bound the wait until a write is visible.

    A zero embedding (under l2 and inner product) is kept as one tiny component: Pinecone refuses zeros.
    Pinecone chooses its own effort; `effort` is ignored. An index built in place holds too little until it is
    done: other processes are to search it only once its builder has said so.
    """

    name = "pinecone"
    capabilities = Capabilities(filters=frozenset(OPERATORS) - {"$gt", "$gte", "$lt", "$lte"}, shared=True)

    def __init__(
        self,
        spec: IndexSpec,
        identity: IndexIdentity,
        *,
        api_key: str,
        host: str = "https://api.pinecone.io",
        cloud: str = "aws",
        region: str = "us-east-1",
        timeout_s: float = 10.0,
        visible_timeout_s: float = 60.0,
    ) -> None:
        self.spec = spec
        self._identity = identity
        self._knowing = threading.Lock()
        self._applied: int | None = None  # not known yet, or not any more
        self._building = False
        self._generation = 0  # grows when what was known and found before counts no more
        self._visible_timeout_s = visible_timeout_s
        self._reached = Reached(host=host, api_key=api_key, cloud=cloud, region=region, timeout_s=timeout_s)
        self._connection, self._namespace = self._opened()

    @property
    def identity(self) -> IndexIdentity:
        """Whose index it is. Another one is another namespace, perhaps of another Pinecone index."""
        return self._identity

    @identity.setter
    def identity(self, identity: IndexIdentity) -> None:
        self.close()
        self._forget()
        self._identity = identity
        self._connection, self._namespace = self._opened()

    def build(self, batches: Iterable[Batch], applied: int, progress: Progress = nobody) -> None:
        self._forget()
        self._building = True  # the marker may show what was there before for a while
        try:
            self._build(batches, progress)
            self._finish(applied)
        finally:
            self._building = False

    def apply(self, changes: Sequence[Change]) -> int:
        applied = self._applied_there()
        pending = [change for change in changes if change.sequence > applied]
        if pending:
            upserts, deletes = coalesced(pending)
            self._namespace.write(rows_of(upserts), deletes, Marker(self.identity, applied))
            applied = pending[-1].sequence
            self._finish(applied)
        self._applied = applied
        return applied

    def search(
        self,
        queries: Embeddings,
        candidates: int,
        filter: Filter | None = None,
        effort: int | None = None,
        allowed: Ids | None = None,
    ) -> Candidates:
        del effort, allowed
        deadline = time.monotonic() + self._reached.timeout_s
        generation = self._generation
        applied = self._known_applied(deadline)
        asked = pinecone_filter(filter)

        def found(query: list[float]) -> list[Match]:
            answer = self._namespace.query(query, min(candidates + 1, TOP_K), asked, deadline)
            return [(match.id, match.score) for match in answer.matches]

        answers = _each(found, without_zeros(queries).tolist())
        if not all(answers):
            self._check_still_there(deadline)
        if generation != self._generation:
            raise IndexUnavailable(f"the index {self._namespace.name!r} was built anew during the search; search again")
        proposed = [_chunks(answer, candidates) for answer in answers]
        return Candidates(
            ids=[np.array([id_ for id_, _ in chunks], dtype=np.int64) for chunks in proposed],
            scores=[scores_of([score for _, score in chunks], self.spec.metric) for chunks in proposed],
            applied=applied,
        )

    def observe(self, applied: int) -> None:
        with self._knowing:
            if self._applied is not None:  # else the next search reads it where it stands
                self._applied = max(applied, self._applied)

    def ids(self) -> Iterator[Ids]:
        return self._namespace.ids()

    def stats(self) -> IndexStats:
        """Say how it stands. Pinecone's count may lag by seconds, and the size is that of the embeddings alone."""
        try:
            found = self._namespace.marker_metadata()
            count = self._namespace.count() - (found is not None)
        except NotThere:
            found, count = None, 0
        marker = read_marker(found, self.identity)
        ready = marker is not None and marker.applied is not None
        return IndexStats(
            count=max(count, 0),
            applied=marker.applied or 0 if marker else 0,
            size_bytes=max(count, 0) * self.spec.dimension * 4,
            ready=ready,
            details={"pinecone_index": self._connection.target.name, "namespace": self._namespace.name},
        )

    def ping(self) -> None:
        """Ask the control plane; that it has no such index yet is an answer too."""
        with suppress(NotThere):
            self._connection.describe()

    def drop(self) -> None:
        """Delete the namespace. The Pinecone index stays, empty at last: another collection may need it."""
        self._forget()
        with suppress(NotThere):
            self._namespace.drop()

    def close(self) -> None:
        self._connection.close()

    def _opened(self) -> tuple[Connection, Namespace]:
        system = self.identity.system_identifier & (1 << 64) - 1
        metric = METRICS[self.spec.metric]
        connection = Connection(
            Target(
                name=f"ragstone-{system:x}-{self.spec.dimension}-{metric}",  # at most 41 of the 45 characters allowed
                dimension=self.spec.dimension,
                metric=metric,
                reached=self._reached,
            )
        )
        return connection, Namespace(connection, self.identity.name, self._visible_timeout_s)

    def _finish(self, applied: int) -> None:
        self._namespace.put_marker(Marker(self.identity, applied))
        with self._knowing:
            self._applied = applied

    def _build(self, batches: Iterable[Batch], progress: Progress) -> None:
        marker = Marker(self.identity, None)
        self._connection.create()
        self._namespace.clear(marker)
        sent = [_NO_IDS]
        for rows in _held(batches):
            self._namespace.write(rows, _NO_IDS, marker)
            sent.append(rows.ids)
            progress(len(rows))
        self._namespace.compare(np.concatenate(sent), marker)

    def _forget(self) -> None:
        with self._knowing:
            self._generation += 1
            self._applied = None

    def _known_applied(self, deadline: float) -> int:
        generation, applied = self._generation, self._applied
        if applied is not None:
            return applied
        if self._building:
            raise IndexUnavailable(f"the index {self._namespace.name!r} in Pinecone is being built; wait for it")
        applied = self._applied_there(deadline)
        with self._knowing:
            if generation == self._generation:
                self._applied = max(applied, self._applied or 0)
        return applied

    def _applied_there(self, deadline: float | None = None) -> int:
        """Read the number from the marker; raises IndexUnavailable where there is none."""
        marker = read_marker(self._namespace.marker_metadata(deadline), self.identity)
        if marker is None:
            raise IndexUnavailable(
                f"Pinecone has no index {self._namespace.name!r} any more, or yet; rebuild the index"
            )
        if marker.applied is None:
            raise IndexUnavailable(
                f"the index {self._namespace.name!r} in Pinecone is being built, or its build broke off; "
                "wait for it, or rebuild the index"
            )
        return marker.applied

    def _check_still_there(self, deadline: float) -> None:
        """Nothing found is right where a filter let nothing pass; else not even the marker is there."""
        try:
            self._applied_there(deadline)
        except IndexUnavailable:
            self._forget()
            raise


def _held(batches: Iterable[Batch]) -> Iterator[Rows]:
    """Prepare batches, brought together until they are as many bytes as a build keeps."""
    held: list[Rows] = []
    for batch in batches:
        held.append(rows_of(batch))
        if sum(rows.nbytes for rows in held) >= HELD_BYTES:
            yield joined(held)
            held = []
    if held:
        yield joined(held)


def _each(found: Callable[[list[float]], list[Match]], queries: list[list[float]]) -> list[list[Match]]:
    if len(queries) <= 1:
        return [found(query) for query in queries]
    with ThreadPoolExecutor(min(QUERIES_AT_ONCE, len(queries)), "pinecone-query") as searchers:
        return list(searchers.map(found, queries))


def _chunks(answer: list[Match], candidates: int) -> list[tuple[int, float]]:
    return [(int(id_), score) for id_, score in answer if id_ != MARKER_ID][:candidates]
