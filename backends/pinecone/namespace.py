"""One namespace of a Pinecone index: what is read from it and written to it, and when a write is visible.

Pinecone answers a write before searches see it. It numbers the writes of a namespace and says the number of each
(`x-pinecone-request-lsn`); every answer to a query says up to which number it has seen
(`x-pinecone-max-indexed-lsn`). So after writing we ask a query of one result, again and again, until its number
has come to that of our last write: https://docs.pinecone.io/guides/index-data/check-data-freshness

The SDK keeps the number of a delete to itself. So deletes go first and upserts after them; where nothing is
upserted, the marker is, as it was.

A server without these headers (Pinecone's local emulator) is asked for the last id of each request instead: an
upserted one has to be there, a deleted one not. With the headers this is asked too, afterwards: what was
acknowledged and lost is sent again. What takes too long to be seen raises IndexUnavailable.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from pinecone.models.response_info import ResponseInfo
from pinecone.models.vectors.responses import FetchResponse, ListResponse, QueryResponse

from backends.errors import IndexUnavailable
from backends.pinecone.connection import TRIES, Connection
from backends.pinecone.failures import NotThere
from backends.pinecone.marker import MARKER_ID, Marker
from backends.pinecone.rows import DELETE_IDS, LIST_IDS, Rows, requests_of
from backends.types import Ids

WRITERS = 4
VISIBLE_PER_ROW_S = 0.005
COUNT_SETTLES_S = 10.0
"""Pinecone's counts lag behind its queries. After this the ids are compared, one by one."""
LOST_AFTER_S = 2.0
FETCH_IDS = 50
"""An answer to a fetch carries the embeddings, and the ids stand in its address: 1,000 would be allowed."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 2.0

_WRITTEN_LSN = ("x-pinecone-request-lsn", "x-pinecone-lsn-committed")  # the documented name, then the SDK's own
_INDEXED_LSN = ("x-pinecone-max-indexed-lsn", "x-pinecone-lsn-reconciled")


class Namespace:
    """Every call raises IndexUnavailable where Pinecone cannot be reached, NotThere where it has no such index."""

    def __init__(self, connection: Connection, name: str, visible_timeout_s: float) -> None:
        self.name = name
        self._connection = connection
        self._probe = [1.0] + [0.0] * (connection.target.dimension - 1)  # what to ask when the answer is no matter
        self._visible_timeout_s = visible_timeout_s

    def query(
        self, vector: list[float], top_k: int, filter: dict[str, Any] | None, deadline: float | None = None
    ) -> QueryResponse:
        """Ask for the nearest ids, the marker's among them, without their values and metadata."""
        return self._connection.call(
            "search",
            lambda index, timeout_s: index.query(
                vector=vector, top_k=top_k, filter=filter, namespace=self.name, timeout=timeout_s
            ),
            deadline,
        )

    def marker_metadata(self, deadline: float | None = None) -> dict[str, Any] | None:
        """Return what stands under the marker's id, or None."""
        found = self._fetch([MARKER_ID], deadline).vectors.get(MARKER_ID)
        return None if found is None else found.metadata

    def count(self) -> int:
        """Return how many vectors Pinecone counts, the marker among them. The count may lag."""
        stats = self._connection.call("count", lambda index, timeout_s: index.describe_index_stats(timeout=timeout_s))
        summary = stats.namespaces.get(self.name)
        return 0 if summary is None else summary.vector_count

    def ids(self) -> Iterator[Ids]:
        """Give every chunk id. Pinecone lists 100 at a time: a million take 10,000 calls."""
        token: str | None = None
        while True:
            page = self._page(token)
            yield np.array([int(item.id) for item in page.vectors if item.id and item.id != MARKER_ID], dtype=np.int64)
            token = page.pagination.next if page.pagination else None
            if not token:
                return

    def clear(self, marker: Marker) -> None:
        """Delete everything, then leave this marker there, visibly."""
        self._delete_everything()
        self.put_marker(marker)

    def drop(self) -> None:
        """Delete everything and the namespace itself; wait until the marker is seen to be gone."""
        self._delete_everything()
        # Without it an empty namespace stays behind, and no more. The local emulator cannot do it.
        with suppress(IndexUnavailable):
            self._connection.call(
                "delete the namespace",
                lambda index, timeout_s: index.delete_namespace(name=self.name, timeout=timeout_s),
            )
        self._wait(lambda: self.marker_metadata() is None, rows=0)

    def put_marker(self, marker: Marker) -> None:
        """Write the marker, and wait until it is visible: so is all that was written before it."""
        for _ in range(TRIES):
            self._marked_visibly(marker)
            if _comes_true(lambda: self._shows(marker), LOST_AFTER_S):
                return
        raise self._losing()

    def write(self, rows: Rows, deletes: Ids, marker: Marker) -> None:
        """Delete and upsert, no id in both, and wait until both are visible. `marker` is the one that stands there."""
        upserts: Sequence[Rows] = list(requests_of(rows))
        removals: Sequence[Ids] = [deletes[start : start + DELETE_IDS] for start in range(0, len(deletes), DELETE_IDS)]
        for _ in range(TRIES):
            self._sent_visibly(upserts, removals, marker)
            upserts, removals = self._lost_for_good(upserts, removals)
            if not upserts and not removals:
                return
        raise self._losing()

    def compare(self, expected: Ids, marker: Marker) -> None:
        """Check after a build that these ids are there and no others; delete the others.

        Raises IndexUnavailable where some are missing: their embeddings are not at hand any more.
        """
        if _comes_true(lambda: self.count() == len(expected) + 1, COUNT_SETTLES_S):
            return
        held = np.concatenate(list(self.ids()))
        lost = np.setdiff1d(expected, held)
        if len(lost):
            raise IndexUnavailable(
                f"Pinecone lost {len(lost)} of {len(expected)} chunks in namespace {self.name!r}; rebuild the index"
            )
        strays = np.setdiff1d(held, expected)
        self.write(Rows(expected[:0], np.empty((0, len(self._probe)), np.float32), []), strays, marker)

    def _marked_visibly(self, marker: Marker) -> None:
        lsn = self._upsert_marker(marker)
        self._wait(lambda: self._seen(lsn, lambda: self._shows(marker)), rows=1)

    def _shows(self, marker: Marker) -> bool:
        return self.marker_metadata() == marker.metadata()

    def _losing(self) -> IndexUnavailable:
        return IndexUnavailable(
            f"Pinecone lost writes to namespace {self.name!r} that it had acknowledged, {TRIES} times; try again later"
        )

    def _delete_everything(self) -> None:
        with suppress(NotThere):
            self._connection.call(
                "delete everything",
                lambda index, timeout_s: index.delete(delete_all=True, namespace=self.name, timeout=timeout_s),
            )

    def _sent_visibly(self, upserts: Sequence[Rows], removals: Sequence[Ids], marker: Marker) -> None:
        lsn = self._send(upserts, removals, marker)
        self._wait(
            lambda: self._seen(lsn, lambda: not any(self._lost(upserts, removals))),
            rows=sum(map(len, upserts)) + sum(map(len, removals)),
        )

    def _send(self, upserts: Sequence[Rows], removals: Sequence[Ids], marker: Marker) -> int | None:
        """Send the requests, a few at once, and return the highest number that Pinecone gave them."""
        with ThreadPoolExecutor(WRITERS, "pinecone-write") as writers:
            list(writers.map(self._delete, removals))
            lsns = list(writers.map(self._upsert, upserts))
        if removals and not upserts:
            lsns = [self._upsert_marker(marker)]
        known = [lsn for lsn in lsns if lsn is not None]
        return max(known) if known else None

    def _upsert(self, rows: Rows) -> int | None:
        return self._put(rows.vectors())

    def _upsert_marker(self, marker: Marker) -> int | None:
        return self._put([(MARKER_ID, self._probe, marker.metadata())])

    def _put(self, vectors: list[tuple[str, list[float], dict[str, Any]]]) -> int | None:
        answer = self._connection.call(
            "upsert",
            lambda index, timeout_s: index.upsert(vectors=vectors, namespace=self.name, timeout=timeout_s),
        )
        return _number(answer.response_info, _WRITTEN_LSN)

    def _delete(self, ids: Ids) -> None:
        names = [str(id_) for id_ in ids.tolist()]
        with suppress(NotThere):
            self._connection.call(
                "delete",
                lambda index, timeout_s: index.delete(ids=names, namespace=self.name, timeout=timeout_s),
            )

    def _seen(self, lsn: int | None, otherwise: Callable[[], bool]) -> bool:
        """Whether a query sees the write of this number; where the server does not number, whether `otherwise`."""
        if lsn is not None:
            indexed = _number(self.query(self._probe, 1, None).response_info, _INDEXED_LSN)
            if indexed is not None:
                return indexed >= lsn
        return otherwise()

    def _lost_for_good(self, upserts: Sequence[Rows], removals: Sequence[Ids]) -> tuple[Sequence[Rows], Sequence[Ids]]:
        """Look for a while: a fetch may be a little behind the query that has seen the number."""
        lost: tuple[Sequence[Rows], Sequence[Ids]] = ((), ())

        def none_is() -> bool:
            nonlocal lost
            lost = self._lost(upserts, removals)
            return not any(lost)

        _comes_true(none_is, LOST_AFTER_S)
        return lost

    def _lost(self, upserts: Sequence[Rows], removals: Sequence[Ids]) -> tuple[list[Rows], list[Ids]]:
        """Return the requests of which nothing is to be seen, by the last id of each."""
        there = self._present([int(ids[-1]) for ids in [*(rows.ids for rows in upserts), *removals]])
        return (
            [rows for rows in upserts if int(rows.ids[-1]) not in there],
            [ids for ids in removals if int(ids[-1]) in there],
        )

    def _present(self, ids: Sequence[int]) -> set[int]:
        names = [str(id_) for id_ in ids]
        parts = [names[start : start + FETCH_IDS] for start in range(0, len(names), FETCH_IDS)]
        return {int(name) for part in parts for name in self._fetch(part).vectors}

    def _fetch(self, names: list[str], deadline: float | None = None) -> FetchResponse:
        return self._connection.call(
            "fetch",
            lambda index, timeout_s: index.fetch(ids=names, namespace=self.name, timeout=timeout_s),
            deadline,
        )

    def _page(self, token: str | None) -> ListResponse:
        return self._connection.call(
            "list the ids",
            lambda index, timeout_s: index.list_paginated(
                limit=LIST_IDS, pagination_token=token, namespace=self.name, timeout=timeout_s
            ),
        )

    def _wait(self, visible: Callable[[], bool], rows: int) -> None:
        allowed_s = self._visible_timeout_s + VISIBLE_PER_ROW_S * rows
        if not _comes_true(visible, allowed_s):
            raise IndexUnavailable(
                f"Pinecone took writes to namespace {self.name!r} and does not show them after {allowed_s:.0f} s; "
                "try again later"
            )


def _comes_true(condition: Callable[[], bool], within_s: float) -> bool:
    give_up = time.monotonic() + within_s
    pause_s = FIRST_PAUSE_S
    while not condition():
        if time.monotonic() + pause_s > give_up:
            return False
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)
    return True


def _number(info: ResponseInfo | None, names: Sequence[str]) -> int | None:
    headers = {} if info is None else info.raw_headers
    return next((int(headers[name]) for name in names if headers.get(name, "").isdigit()), None)
