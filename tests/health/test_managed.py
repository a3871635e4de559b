"""What Weaviate and Pinecone say of themselves."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from ops.health import managed
from retrieval import follower
from retrieval.config import load
from tests.fakes.pinecone_routes import Request
from tests.fakes.pinecone_server import Fault
from tests.fakes.weaviate import rest
from tests.fakes.weaviate.rest import Answer, RestServer
from tests.fakes.weaviate.store import Stored
from tests.fakes.weaviate_server import FakeWeaviate, weaviate_server
from tests.health.watched import PineconeVault, Watched, WeaviateVault, drawn, pinecone_vault, watched


@contextmanager
def in_weaviate(postgres_url: str, server: FakeWeaviate) -> Iterator[tuple[Watched, WeaviateVault]]:
    database = f"health_managed_{server.grpc_port}"
    vault = WeaviateVault(server)
    settings = load(embedding_model="hashing", **vault.settings)
    with watched(postgres_url, database, settings, count=30) as subject:
        subject.move("weaviate")
        yield subject, vault


@pytest.fixture(scope="module")
def weaviate(postgres_url: str) -> Iterator[tuple[Watched, WeaviateVault]]:
    with weaviate_server() as server, in_weaviate(postgres_url, server) as found:
        yield found


@pytest.fixture(scope="module")
def pinecone(postgres_url: str) -> Iterator[tuple[Watched, PineconeVault]]:
    with pinecone_vault(None) as vault:
        settings = load(embedding_model="hashing", **vault.settings)
        with watched(postgres_url, "health_managed_pinecone", settings, count=30) as subject:
            subject.move("pinecone")
            yield subject, vault


def level(subject: Watched, name: str) -> str:
    return subject.level(managed.weaviate_nodes, name)


@pytest.mark.parametrize(
    ("path", "value"),
    [(("status",), "UNHEALTHY"), (("status",), "UNAVAILABLE"), (("shards", 0, "vectorIndexingStatus"), "READONLY")],
)
def test_a_node_that_is_not_well(
    weaviate: tuple[Watched, WeaviateVault], monkeypatch: pytest.MonkeyPatch, path: tuple[Any, ...], value: str
) -> None:
    """A node or a shard that Weaviate itself does not call well is critical."""
    subject, _ = weaviate
    assert level(subject, "weaviate_nodes") == "ok"
    with monkeypatch.context() as patch:
        made = rest._node

        def ill(*given: Any) -> dict[str, Any]:
            node = made(*given)
            part = node
            for step in path[:-1]:
                part = part[step]
            part[path[-1]] = value
            return node

        patch.setattr(rest, "_node", ill)
        check = subject.look(managed.weaviate_nodes)["weaviate_nodes"]
        assert (check.level, value in check.detail) == ("crit", True)
    assert level(subject, "weaviate_nodes") == "ok"


def test_vectors_that_wait_to_be_indexed(weaviate: tuple[Watched, WeaviateVault]) -> None:
    """A queue of more than a thousand vectors is a warning until it is worked off."""
    subject, vault = weaviate
    assert level(subject, "weaviate_queue") == "ok"
    vector, later = drawn(1, 5)[0], time.monotonic() + 1_000
    waiting = [UUID(int=(1 << 41) + number) for number in range(managed.QUEUE_WARN + 1)]
    objects = vault.objects(subject)
    objects.update({uuid: Stored(uuid, {}, vector, later) for uuid in waiting})
    check = subject.look(managed.weaviate_nodes)["weaviate_queue"]
    assert (check.level, check.value) == ("warn", len(waiting))
    for uuid in waiting:
        del objects[uuid]
    assert level(subject, "weaviate_queue") == "ok"


def test_replicas_that_differ(weaviate: tuple[Watched, WeaviateVault], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second node that has fewer objects of the same shard is a warning; one that has as many is none."""
    subject, _ = weaviate
    answer = RestServer.answer
    for lost, wanted in ((0, "ok"), (3, "warn")):
        with monkeypatch.context() as patch:

            def twice(self: RestServer, method: str, path: str, asked: Any, lost: int = lost) -> Answer:
                found = answer(self, method, path, asked)
                if path.startswith("nodes/"):
                    second = json.loads(json.dumps(found.body["nodes"][0])) | {"name": "node2"}
                    second["shards"][0]["objectCount"] -= lost
                    found.body["nodes"].append(second)
                return found

            patch.setattr(RestServer, "answer", twice)
            check = subject.look(managed.weaviate_nodes)["weaviate_replicas"]
            assert (check.level, check.value) == (wanted, lost)
    assert level(subject, "weaviate_replicas") == "ok"


def test_an_old_weaviate(postgres_url: str) -> None:
    """Before 1.33 some filters narrow nothing there: a warning, until the server is a newer one."""
    with weaviate_server(version="1.32.4") as server, in_weaviate(postgres_url, server) as (subject, _):
        assert level(subject, "weaviate_version") == "warn"
        server.stop()
        server.version = "1.33.0"
        server.start()
        assert level(subject, "weaviate_version") == "ok"


def test_weaviate_that_is_stopped(weaviate: tuple[Watched, WeaviateVault]) -> None:
    """What cannot be asked is unknown, and the reason is told."""
    subject, vault = weaviate
    vault.server.stop()
    try:
        found = subject.look(managed.weaviate_nodes)
        assert found["weaviate_nodes"].level == "unknown"
        assert "cannot be reached" in found["weaviate_nodes"].detail
    finally:
        vault.server.start()
    assert level(subject, "weaviate_nodes") == "ok"


def test_a_pinecone_index_that_is_not_ready(pinecone: tuple[Watched, PineconeVault]) -> None:
    """What Pinecone does not call ready is critical."""
    subject, vault = pinecone
    assert subject.level(managed.pinecone_status) == "ok"
    index = next(iter(vault.server.data.indexes.values()))
    ready_at, index.ready_at = index.ready_at, time.monotonic() + 1_000
    check = subject.look(managed.pinecone_status)["pinecone_status"]
    assert (check.level, check.detail) == ("crit", "Initializing")
    index.ready_at = ready_at
    assert subject.level(managed.pinecone_status) == "ok"


@pytest.mark.parametrize(("full", "wanted"), [(0.9, "warn"), (0.99, "crit")])
def test_a_pinecone_index_that_is_full(pinecone: tuple[Watched, PineconeVault], full: float, wanted: str) -> None:
    """The fuller the worse."""
    subject, vault = pinecone
    assert subject.level(managed.pinecone_fullness) == "ok"
    body = {"namespaces": {}, "dimension": 16, "indexFullness": full, "totalVectorCount": 1}
    vault.server.misbehave(Fault(path="describe_index_stats", times=1_000, body=json.dumps(body).encode()))
    check = subject.look(managed.pinecone_fullness)["pinecone_fullness"]
    assert (check.level, check.value) == (wanted, full)
    vault.server.behave()
    assert subject.level(managed.pinecone_fullness) == "ok"


def test_a_copy_of_pinecone_that_lags(pinecone: tuple[Watched, PineconeVault], monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers whose log numbers go backwards come from a copy that is behind."""
    subject, _ = pinecone
    assert subject.level(managed.pinecone_freshness) == "ok"
    with monkeypatch.context() as patch:
        read, asked = Request.read, []

        def by_turns(self: Request, path: str, namespace: str) -> Any:
            index, space, fresh = read(self, path, namespace)
            asked.append(path)
            behind = 2 if len(asked) % 2 else 0
            return index, space, {name: str(int(number) - behind) for name, number in fresh.items()}

        patch.setattr(Request, "read", by_turns)
        check = subject.look(managed.pinecone_freshness)["pinecone_freshness"]
        assert (check.level, check.value) == ("warn", 2)
    assert subject.level(managed.pinecone_freshness) == "ok"


def test_a_pinecone_that_forgot_the_last_writes(
    pinecone: tuple[Watched, PineconeVault], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A marker behind what was visible once says that answers come from before it."""
    subject, vault = pinecone
    monkeypatch.setattr(follower, "CHECK_S", 1_000.0)  # else the follower applies again what was lost
    records = vault.space(subject).records
    vector, metadata = records["ragstone-marker"]
    subject.put(5, first=100)
    subject.collection.wait_until_indexed(30)
    now = records["ragstone-marker"]
    assert subject.level(managed.pinecone_freshness) == "ok"
    records["ragstone-marker"] = vector, metadata
    check = subject.look(managed.pinecone_freshness)["pinecone_freshness"]
    assert (check.level, check.value) == ("warn", 1)
    records["ragstone-marker"] = now
    assert subject.level(managed.pinecone_freshness) == "ok"


def test_an_emulator_numbers_nothing(pinecone: tuple[Watched, PineconeVault]) -> None:
    """Without log numbers the marker alone is compared, and that is said."""
    subject, vault = pinecone
    vault.server.data.numbers_writes = False
    check = subject.look(managed.pinecone_freshness)["pinecone_freshness"]
    vault.server.data.numbers_writes = True
    assert (check.level, "no log numbers" in check.detail) == ("ok", True)
