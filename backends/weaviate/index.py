"""The vector index kept in a Weaviate class of its own."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from weaviate.proto.v1 import batch_pb2

from backends.base import VectorIndex
from backends.coalescing import coalesced
from backends.errors import IndexUnavailable
from backends.filters import OPERATORS, Filter
from backends.tokens import narrowing
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
from backends.weaviate import messages
from backends.weaviate.classes import class_name, made_anew, wait_until_indexed
from backends.weaviate.connection import BACKOFF_S, TRIES, Connection
from backends.weaviate.faults import Kind
from backends.weaviate.standing import Standing

SAYS_NONE_OF = (1, 33)
"""The first version with the filter ContainsNone."""
VECTOR_BYTES = 4


class WeaviateIndex(VectorIndex):
    """Searches Weaviate's HNSW over gRPC; classes are made and dropped over REST.

    The marker is an object of the index's own class: it goes when the class goes, so that no marker outlives what
    it speaks for. It has no vector, so no search finds it, and its UUID is beyond every chunk's.

    `ef_search` belongs to the class and is set by the next build; Weaviate takes none with a query, so `effort`
    is ignored. A search is over after `timeout_s`, tries and all; the first one of a process also connects, which
    may take as long again. A write of up to a thousand rows may take six times as long.
    """

    name = "weaviate"
    capabilities = Capabilities(
        filters=frozenset(OPERATORS) - {"$gt", "$gte", "$lt", "$lte"},  # tokens have no order
        shared=True,
    )

    def __init__(
        self,
        spec: IndexSpec,
        identity: IndexIdentity,
        *,
        url: str,
        grpc_port: int,
        api_key: str | None = None,
        ef_search: int = 40,
        timeout_s: float = 10.0,
    ) -> None:
        self.spec = spec
        self.identity = identity
        self._ef_search = ef_search
        self._connection = Connection(url, grpc_port, api_key, timeout_s)
        self._standing = Standing()

    def build(self, batches: Iterable[Batch], applied: int, progress: Progress = nobody) -> None:
        self._standing.reset()
        self._connection.rest(made_anew(self._class, self.spec, self._ef_search), writing=True)
        self._standing.reset()  # a search may have read the old marker meanwhile
        rows = 0
        for batch in batches:
            self._upsert(batch)
            rows += len(batch.ids)
            progress(len(batch.ids))
        wait_until_indexed(self._connection, self._class, rows)
        if (count := self._objects()) != rows:
            raise IndexUnavailable(f"{self._where} holds {count} chunks after a build of {rows}: build it again")
        self._mark(applied)

    def apply(self, changes: Sequence[Change]) -> int:
        applied = self._marked()
        if applied is None:
            raise self._not_built()
        news = [change for change in changes if change.sequence > applied]
        if news:
            upserts, deletes = coalesced(news)
            self._upsert(upserts)
            self._delete(deletes)
            wait_until_indexed(self._connection, self._class, len(upserts.ids) + len(deletes))
            self._mark(applied := news[-1].sequence)
        return applied

    def search(
        self,
        queries: Embeddings,
        candidates: int,
        filter: Filter | None = None,
        effort: int | None = None,
        allowed: Ids | None = None,
    ) -> Candidates:
        del effort, allowed  # the class says how hard to look; it selects no ids
        until = self._connection.until()
        generation = self._standing.generation
        applied = self._known_applied(until)
        version = self._connection.version(until)
        filters = messages.narrowed(narrowing(filter), says_none_of=version >= SAYS_NONE_OF)
        ids, scores = [], []
        for query in queries:
            request = messages.near(self._class, query, candidates, filters)
            reply = self._connection.ask("Search", request, until)
            ids.append(messages.ids_of(reply))
            scores.append(messages.scores_of(reply, self.spec.metric))
        if generation != self._standing.generation:
            raise IndexUnavailable(f"{self._where} was built anew or dropped during the search: search again")
        return Candidates(ids=ids, scores=scores, applied=applied)

    def ids(self) -> Iterator[Ids]:
        after = ""
        while uuids := messages.uuids_of(reply := self._read(messages.page(self._class, after))):
            yield messages.ids_of(reply)
            after = uuids[-1]

    def stats(self) -> IndexStats:
        details = {"class": self._class}
        if not self._exists():
            return IndexStats(count=0, applied=0, size_bytes=0, ready=False, details=details)
        text = self._marker(self._connection.until())
        applied = self._applied_in(text)
        count = self._objects() - (text is not None)
        # Weaviate does not say what an index takes: these are its vectors alone.
        size_bytes = count * self.spec.dimension * VECTOR_BYTES
        ready = applied is not None
        return IndexStats(count=count, applied=applied or 0, size_bytes=size_bytes, ready=ready, details=details)

    def ping(self) -> None:
        self._connection.check()

    def drop(self) -> None:
        self._standing.reset()
        self._connection.rest(lambda client: client.collections.delete(self._class), writing=True)

    def observe(self, applied: int) -> None:
        self._standing.hear(applied)

    def close(self) -> None:
        self._connection.close()

    @property
    def _class(self) -> str:
        return class_name(self.identity)

    @property
    def _where(self) -> str:
        return f"{self._class} in Weaviate at {self._connection.url}"

    def _not_built(self) -> IndexUnavailable:
        return IndexUnavailable(f"Weaviate at {self._connection.url} {Kind.GONE.value} ({self._class} has no marker)")

    def _known_applied(self, until: float) -> int:
        if (applied := self._standing.applied) is not None:
            return applied
        generation = self._standing.generation
        if (applied := self._applied_in(self._marker(until))) is None:
            raise self._not_built()
        self._standing.learn(applied, generation)
        return applied

    def _upsert(self, batch: Batch) -> None:
        for piece in messages.in_messages(messages.objects_of(self._class, batch)):
            self._write(piece)

    def _write(self, objects: list[batch_pb2.BatchObject]) -> None:
        """Write objects, look whether they are there, and write again those that are not."""
        for turn in range(TRIES):
            time.sleep(BACKOFF_S * turn)
            reply = self._connection.ask("BatchObjects", messages.write(objects), self._connection.until(writing=True))
            refused = {error.index for error in reply.errors}
            there = self._there([one.uuid for one in objects])
            left = [one for at, one in enumerate(objects) if at in refused or one.uuid not in there]
            if not left:
                return
            reasons = sorted({error.error for error in reply.errors})
            objects = left
        reason = "; ".join(reasons) or "they were lost without an error"
        raise IndexUnavailable(f"{self._where} did not take {len(objects)} objects: {reason}")

    def _there(self, uuids: Sequence[str]) -> set[str]:
        return set(messages.uuids_of(self._read(messages.look_up(self._class, uuids))))

    def _delete(self, ids: Ids) -> None:
        for start in range(0, len(ids), messages.ROWS_AT_ONCE):
            request = messages.delete(self._class, ids[start : start + messages.ROWS_AT_ONCE])
            reply = self._connection.ask("BatchDelete", request, self._connection.until(writing=True))
            if reply.failed:
                raise IndexUnavailable(f"{self._where} did not delete {reply.failed} of {reply.matches} objects")

    def _mark(self, applied: int) -> None:
        text = json.dumps({**asdict(self.identity), "applied": applied})
        self._write([messages.marker_object(self._class, text)])
        self._standing.learn(applied, self._standing.generation)

    def _marked(self) -> int | None:
        return self._applied_in(self._marker(self._connection.until())) if self._exists() else None

    def _marker(self, until: float) -> str | None:
        request = messages.look_up(self._class, [str(messages.MARKER_UUID)], messages.MARKER)
        return messages.marker_in(self._connection.ask("Search", request, until))

    def _applied_in(self, text: str | None) -> int | None:
        """Return the number in a marker; None where there is none, or where it is not this index's."""
        try:
            said = json.loads(text or "")
            applied = said.pop("applied")
        except (ValueError, AttributeError, KeyError):
            return None
        return applied if said == asdict(self.identity) and isinstance(applied, int) else None

    def _exists(self) -> bool:
        return self._connection.rest(lambda client: client.collections.exists(self._class))

    def _objects(self) -> int:
        reply = self._connection.ask("Aggregate", messages.count(self._class), self._connection.until())
        return int(reply.single_result.objects_count)

    def _read(self, request: Any) -> Any:
        return self._connection.ask("Search", request, self._connection.until())
