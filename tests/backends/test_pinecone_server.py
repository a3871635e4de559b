"""The made-up Pinecone itself: it refuses what Pinecone refuses, so that passing against it means something."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pinecone import Index, Pinecone, ServerlessSpec
from pinecone.errors import ApiError, ConflictError, NotFoundError, UnauthorizedError

from tests.fakes.pinecone_server import API_KEY, FakePinecone, pinecone_server

NAME = "ragstone-1-3-cosine"
ONE = ("1", [1.0, 2.0, 3.0])


@pytest.fixture
def server() -> Iterator[FakePinecone]:
    """A server with one index of three dimensions."""
    with pinecone_server() as started:
        _create(started)
        yield started


@pytest.fixture
def index(server: FakePinecone) -> Iterator[Index]:
    """The SDK's client of that index."""
    with Index(host=f"{server.url}/{NAME}", api_key=API_KEY) as client:
        yield client


def _create(server: FakePinecone, name: str = NAME, key: str = API_KEY) -> None:
    with Pinecone(api_key=key, host=server.url) as control:
        spec = ServerlessSpec(cloud="aws", region="us-east-1")
        control.indexes.create(name=name, dimension=3, metric="cosine", spec=spec)


REFUSED: dict[str, Callable[[Index], Any]] = {
    "1,001 vectors": lambda index: index.upsert(vectors=[ONE] * 1_001),
    "more than 2 MB": lambda index: index.upsert(vectors=[(*ONE, {"text": "x" * 30_000})] * 80),
    "more than 40 KB of metadata": lambda index: index.upsert(vectors=[(*ONE, {"text": "x" * 41_000})]),
    "nested metadata": lambda index: index.upsert(vectors=[(*ONE, {"a": {"b": 1}})]),
    "a list of numbers": lambda index: index.upsert(vectors=[(*ONE, {"a": [1]})]),
    "another dimension": lambda index: index.upsert(vectors=[("1", [1.0])]),
    "a zero vector": lambda index: index.upsert(vectors=[("1", [0.0, 0.0, 0.0])]),
    "a zero query": lambda index: index.query(vector=[0.0, 0.0, 0.0], top_k=1),
    "a long id": lambda index: index.upsert(vectors=[("x" * 513, ONE[1])]),
    "10,001 results": lambda index: index.query(vector=ONE[1], top_k=10_001),
    "10,001 values": lambda index: index.query(vector=ONE[1], top_k=1, filter={"a": {"$in": ["x"] * 10_001}}),
    "an unknown operator": lambda index: index.query(vector=ONE[1], top_k=1, filter={"a": {"$near": 1}}),
    "an order of strings": lambda index: index.query(vector=ONE[1], top_k=1, filter={"a": {"$gt": "x"}}),
    "$not": lambda index: index.query(vector=ONE[1], top_k=1, filter={"$not": {"a": 1}}),
    "1,001 ids to delete": lambda index: index.delete(ids=["1"] * 1_001),
    "1,001 ids to fetch": lambda index: index.fetch(ids=["1"] * 1_001),
    "pages of 101": lambda index: index.list_paginated(limit=101),
}


@pytest.mark.parametrize("asked", REFUSED.values(), ids=REFUSED)
def test_limits_are_enforced(index: Index, asked: Callable[[Index], Any]) -> None:
    """Beyond a limit comes 400, in the shape of Pinecone's errors."""
    with pytest.raises(ApiError) as caught:
        asked(index)
    assert caught.value.status_code == 400
    assert caught.value.body is not None
    assert {"code", "message", "details"} == set(caught.value.body)


FILTERS = [
    ({"n": {"$gt": 1}}, {"b"}),
    ({"n": {"$gte": 1, "$lt": 2}}, {"a"}),
    ({"n": {"$lte": 1}}, {"a"}),
    ({"tag": "x"}, {"a", "b"}),
    ({"tag": {"$ne": "y"}}, {"a", "c"}),
    ({"tag": {"$in": ["y", "z"]}}, {"b"}),
    ({"tag": {"$nin": ["y"]}}, {"a", "c"}),
    ({"flag": {"$eq": 1}}, set()),
    ({"flag": {"$exists": True}}, {"c"}),
    ({"$or": [{"flag": True}, {"$and": [{"tag": "x"}, {"n": 1}]}]}, {"a", "c"}),
]


@pytest.mark.parametrize(("given", "wanted"), FILTERS, ids=[str(given) for given, _ in FILTERS])
def test_filters_mean_what_pinecones_do(index: Index, given: dict[str, Any], wanted: set[str]) -> None:
    """A list has a value when one of its elements is it; true is no number; orders are for numbers."""
    records: dict[str, dict[str, Any]] = {
        "a": {"n": 1, "tag": "x"},
        "b": {"n": 2.5, "tag": ["x", "y"]},
        "c": {"flag": True},
    }
    index.upsert(vectors=[(id_, [1.0, 2.0, 3.0], metadata) for id_, metadata in records.items()])
    assert {match.id for match in index.query(vector=ONE[1], top_k=9, filter=given).matches} == wanted


def test_the_log_counts_honestly(server: FakePinecone, index: Index) -> None:
    """A write has the next number of its namespace, and a read says how far it has seen."""
    server.data.lag_s = 60.0
    first = index.upsert(vectors=[ONE], namespace="n").response_info
    second = index.upsert(vectors=[ONE], namespace="n").response_info
    other = index.upsert(vectors=[ONE], namespace="m").response_info
    seen = index.query(vector=ONE[1], top_k=1, namespace="n")
    assert [info.raw_headers["x-pinecone-request-lsn"] for info in (first, second, other) if info] == ["1", "2", "1"]
    assert seen.response_info is not None
    assert (seen.matches, seen.response_info.raw_headers["x-pinecone-max-indexed-lsn"]) == ([], "0")


def test_namespaces_are_listed_described_and_deleted(index: Index) -> None:
    """A namespace is there from its first write; what is not there is 404."""
    for namespace in ("x-1", "x-2", "y-1"):
        index.upsert(vectors=[ONE], namespace=namespace)
    page = index.list_namespaces_paginated(prefix="x-", limit=1)
    assert [one.name for one in page.namespaces] == ["x-1"]
    assert index.describe_namespace(name="y-1").record_count == 1
    index.delete_namespace(name="y-1")
    for asked in (index.describe_namespace, index.delete_namespace):
        with pytest.raises(NotFoundError):
            asked(name="y-1")
    with pytest.raises(NotFoundError):
        index.delete(ids=["1"], namespace="y-1")


def test_the_control_plane_refuses(server: FakePinecone) -> None:
    """A name twice is 409, a wrong key 401, an index that is not there 404."""
    with pytest.raises(ConflictError):
        _create(server)
    with pytest.raises(UnauthorizedError):
        _create(server, "ragstone-2", key="wrong")
    with Pinecone(api_key=API_KEY, host=server.url) as control:
        assert control.indexes.list().names() == [NAME]
        control.indexes.delete(NAME, timeout=-1)
        with pytest.raises(NotFoundError):
            control.indexes.describe(NAME)


def test_another_version_of_the_api_is_refused(server: FakePinecone) -> None:
    """The server answers 2025-10 alone."""
    headers = {"X-Pinecone-Api-Version": "2024-07"}
    with (
        Pinecone(api_key=API_KEY, host=server.url, additional_headers=headers) as control,
        pytest.raises(ApiError, match="2025-10"),
    ):
        control.indexes.list()


def test_it_runs_as_a_program() -> None:
    """Started by hand it serves until it is killed, at the address that it prints."""
    command = [sys.executable, "-m", "tests.fakes.pinecone_server", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as program:
        assert program.stdout is not None
        with Pinecone(api_key=API_KEY, host=program.stdout.readline().strip()) as control:
            assert control.indexes.list().names() == []
        program.terminate()
