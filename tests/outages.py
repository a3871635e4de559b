"""Test servers that go away and come back, and collections that are moved to them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

import pytest

from backends import attached
from backends.corpus.indexes import all_indexes
from ops.moving import start, work_on
from retrieval import Collection, Ragstone, collection, follower
from tests.acceptance.command import wait_for
from tests.fakes.pinecone_server import API_KEY, FakePinecone, Fault, pinecone_server
from tests.fakes.weaviate_server import FakeWeaviate, weaviate_server

Outage = Literal["stopped", "failing", "hanging", "emptied"]

MANY = 1_000_000
HANGS_S = 4.0
PATIENCE_S = 60.0
"""For what takes a second or two on a machine that has nothing else to do."""


class Store(Protocol):
    """A test server. An outage lasts until it is ended, but for "emptied", which is over at once."""

    backend: str

    @property
    def settings(self) -> dict[str, object]:
        """What tells Ragstone where it is."""

    def begin(self, outage: Outage) -> None: ...

    def end(self, outage: Outage) -> None: ...

    def fail_searches(self) -> Callable[[], int]:
        """Fail every search from now on, and return what counts them."""


class _Weaviate:
    backend = "weaviate"

    def __init__(self, server: FakeWeaviate) -> None:
        self._server = server

    @property
    def settings(self) -> dict[str, object]:
        return {"weaviate_url": self._server.url, "weaviate_grpc_port": self._server.grpc_port}

    def begin(self, outage: Outage) -> None:
        match outage:
            case "stopped":
                self._server.stop()
            case "failing":
                self._server.misbehave(fail_next=MANY, status=500)
            case "hanging":
                self._server.misbehave(sleep_s=HANGS_S)
            case "emptied":
                self._server.forget()

    def end(self, outage: Outage) -> None:
        self._server.misbehave()
        if outage == "stopped":
            self._server.start()

    def fail_searches(self) -> Callable[[], int]:
        self._server.misbehave(fail_next=MANY, status=500, only="Search")
        return lambda: MANY - self._server.left("fail_next")


class _Pinecone:
    backend = "pinecone"

    def __init__(self, server: FakePinecone) -> None:
        self._server = server

    @property
    def settings(self) -> dict[str, object]:
        return {"pinecone_host": self._server.url, "pinecone_api_key": API_KEY}

    def begin(self, outage: Outage) -> None:
        match outage:
            case "stopped":
                self._server.stop()
            case "failing":
                self._server.misbehave(Fault(times=MANY, status=500))
            case "hanging":
                self._server.misbehave(Fault(times=MANY, pause_s=HANGS_S))
            case "emptied":
                self._server.forget_everything()

    def end(self, outage: Outage) -> None:
        self._server.behave()
        if outage == "stopped":
            self._server.start()

    def fail_searches(self) -> Callable[[], int]:
        before = len(self._server.requests("/query"))
        self._server.misbehave(Fault(path="/query", times=MANY, status=500))
        return lambda: len(self._server.requests("/query")) - before


@contextmanager
def _weaviate() -> Iterator[Store]:
    with weaviate_server() as server:
        yield _Weaviate(server)


@contextmanager
def _pinecone() -> Iterator[Store]:
    with pinecone_server() as server:
        yield _Pinecone(server)


STORES: dict[str, Callable[[], AbstractContextManager[Store]]] = {"weaviate": _weaviate, "pinecone": _pinecone}
"""What runs a test server that one test alone may break."""


@contextmanager
def during(store: Store, outage: Outage) -> Iterator[None]:
    """Break a store while the block runs."""
    store.begin(outage)
    try:
        yield
    finally:
        store.end(outage)


@contextmanager
def impatient() -> Iterator[None]:
    """Look at indexes much more often than in earnest, so that tests take no longer than they must."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follower, "POLL_S", 0.05)
        patch.setattr(follower, "CHECK_S", 0.2)
        patch.setattr(follower, "RETRY_S", 0.1)
        patch.setattr(attached, "RETRY_S", 0.1)
        patch.setattr(collection, "ROUTE_TTL_S", 0.1)
        yield


def noticed(rag: Ragstone) -> bool:
    """Whether every serving index is known to be away by whoever keeps it: nobody else takes it back then."""
    return all(row.away_since is not None for _, row in all_indexes(rag.database) if row.serving)


def moved(rag: Ragstone, handbook: Collection, backend: str) -> None:
    """Move a collection, and return when this process searches it there."""
    move = work_on(rag, start(rag, handbook.name, backend))
    assert move.phase == "done", move.problem
    query = [1.0] * handbook.info().dimension
    assert wait_for(lambda: handbook.search_with_timings(query, 1).backend == backend, PATIENCE_S)
