"""What the made-up Pinecone answers: each operation of its REST API that Ragstone uses, as the specification says."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tests.fakes.pinecone_data import (
    METRICS,
    Data,
    Index,
    Namespace,
    Refused,
    check_filter,
    invalid,
    parsed_values,
    parsed_vector,
)

UPSERT_BYTES = 2 * 2**20
ROWS = 1_000
TOP_K = 10_000
LIST_IDS = 100
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?")


@dataclass
class Answer:
    """What a route gives: a body, a status, the numbers of the log for the headers."""

    body: object
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """One request on its way to an answer."""

    data: Data
    url: str
    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    lose: bool

    def route(self) -> Answer:
        """Answer it; raises Refused."""
        for method, pattern, handler in ROUTES:
            if method == self.method and (found := re.fullmatch(pattern, self.path)):
                return handler(self, *map(unquote, found.groups()))
        raise Refused(404, 5, f"no such path: {self.method} {self.path}")

    def json(self) -> dict[str, Any]:
        """Read the body; an empty one is {}."""
        try:
            parsed = json.loads(self.body or b"{}")
        except ValueError as error:
            raise invalid(f"invalid JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise invalid("the body must be an object")
        return parsed

    def one(self, name: str, default: str = "") -> str:
        """Return a query parameter."""
        return self.query.get(name, [default])[0]

    def read(self, path: str, namespace: str) -> tuple[Index, Namespace, dict[str, str]]:
        """Look into a namespace, which may not be there and is then empty; with the header that says how fresh."""
        found = self.data.index_at(path)
        space = found.namespaces.get(namespace, Namespace())
        space.look()
        fresh = {"x-pinecone-max-indexed-lsn": str(space.indexed)} if self.data.numbers_writes else {}
        return found, space, fresh

    def write(self, space: Namespace, change: Callable[[], object]) -> dict[str, str]:
        """Put a write into the log; return the header with its number."""
        lsn = space.write((lambda: None) if self.lose else lambda: (change(), None)[1], self.data.lag_s)
        return {"x-pinecone-request-lsn": str(lsn)} if self.data.numbers_writes else {}


def _list_indexes(request: Request) -> Answer:
    return Answer({"indexes": [_described(request, index) for index in request.data.indexes.values()]})


def _create_index(request: Request) -> Answer:
    asked = request.json()
    name, spec = asked.get("name", ""), (asked.get("spec") or {}).get("serverless") or {}
    if not NAME.fullmatch(name):
        raise invalid("Name must consist of lower case alphanumeric characters or '-', 1 to 45 of them")
    if asked.get("metric", "cosine") not in METRICS or not 1 <= asked.get("dimension", 0) <= 20_000:
        raise invalid("needed a metric, a dimension from 1 to 20000")
    if not spec.get("cloud") or not spec.get("region"):
        raise invalid("needed a serverless spec with cloud and region")
    if name in request.data.indexes:
        raise Refused(409, 6, "Resource  already exists")
    index = Index(
        name=name,
        path=name,
        dimension=asked["dimension"],
        metric=asked.get("metric", "cosine"),
        cloud=spec["cloud"],
        region=spec["region"],
        ready_at=time.monotonic() + request.data.ready_after_s,
    )
    request.data.indexes[name] = index
    return Answer(_described(request, index), 201)


def _describe_index(request: Request, name: str) -> Answer:
    return Answer(_described(request, request.data.index(name)))


def _delete_index(request: Request, name: str) -> Answer:
    request.data.index(name)
    del request.data.indexes[name]
    return Answer(None, 202)


def _described(request: Request, index: Index) -> dict[str, Any]:
    ready = time.monotonic() >= index.ready_at
    capacity = {"mode": "OnDemand", "status": {"state": "Ready"}}
    return {
        "name": index.name,
        "vector_type": "dense",
        "metric": index.metric,
        "dimension": index.dimension,
        "status": {"ready": ready, "state": "Ready" if ready else "Initializing"},
        "host": f"{request.url.removeprefix('http://')}/{index.path}",
        "spec": {"serverless": {"cloud": index.cloud, "region": index.region, "read_capacity": capacity}},
        "deletion_protection": "disabled",
    }


def _upsert(request: Request, path: str) -> Answer:
    if len(request.body) > UPSERT_BYTES:
        size = len(request.body)
        raise Refused(400, 11, f"Error, message length too large: found {size} bytes, the limit is: {UPSERT_BYTES}")
    asked, index = request.json(), request.data.index_at(path)
    vectors = asked.get("vectors") or []
    if not 1 <= len(vectors) <= ROWS:
        raise invalid(f"found {len(vectors)} vectors; needed 1 to {ROWS}")
    records = dict(parsed_vector(vector, index.dimension) for vector in vectors)
    space = index.namespaces.setdefault(asked.get("namespace", ""), Namespace())
    headers = request.write(space, lambda: space.records.update(records))
    return Answer({"upsertedCount": len(vectors)}, headers=headers)


def _query(request: Request, path: str) -> Answer:
    asked = request.json()
    namespace, top_k, wanted = asked.get("namespace", ""), asked.get("topK"), asked.get("filter")
    index, space, fresh = request.read(path, namespace)
    if not isinstance(top_k, int) or not 1 <= top_k <= TOP_K:
        raise invalid(f"topK must be 1 to {TOP_K}")
    if wanted is not None:
        check_filter(wanted)
    query = parsed_values(asked.get("vector"), index.dimension)
    if not query.any():
        raise invalid("Dense vectors must contain at least one non-zero value")
    matches = []
    for id_, score in index.nearest(space, query, top_k, wanted):
        values, metadata = space.records[id_]
        shown = {"values": values.tolist()} if asked.get("includeValues") else {"values": []}
        shown |= {"metadata": metadata} if asked.get("includeMetadata") else {}
        matches.append({"id": id_, "score": score, **shown})
    return Answer({"matches": matches, "namespace": namespace, "usage": {"readUnits": 1}}, headers=fresh)


def _fetch(request: Request, path: str) -> Answer:
    namespace, ids = request.one("namespace"), request.query.get("ids", [])
    _, space, fresh = request.read(path, namespace)
    if not 1 <= len(ids) <= ROWS:
        raise invalid(f"found {len(ids)} ids; needed 1 to {ROWS}")
    vectors = {
        id_: {"id": id_, "values": space.records[id_][0].tolist(), "metadata": space.records[id_][1]}
        for id_ in ids
        if id_ in space.records
    }
    return Answer({"vectors": vectors, "namespace": namespace, "usage": {"readUnits": 1}}, headers=fresh)


def _delete(request: Request, path: str) -> Answer:
    asked, index = request.json(), request.data.index_at(path)
    ids, everything, namespace = asked.get("ids"), asked.get("deleteAll", False), asked.get("namespace", "")
    if (ids is None) == (not everything) or "filter" in asked:
        raise invalid("needed ids or deleteAll, one of them")
    if ids is not None and not 1 <= len(ids) <= ROWS:
        raise invalid(f"found {len(ids)} ids; needed 1 to {ROWS}")
    if namespace not in index.namespaces:
        raise Refused(404, 5, "Namespace not found")
    space = index.namespaces[namespace]

    def change() -> None:
        for id_ in ids or list(space.records):
            space.records.pop(id_, None)

    return Answer({}, headers=request.write(space, change))


def _list_ids(request: Request, path: str) -> Answer:
    namespace, limit = request.one("namespace"), int(request.one("limit", str(LIST_IDS)))
    if not 1 <= limit <= LIST_IDS:
        raise invalid(f"limit must be 1 to {LIST_IDS}")
    _, space, fresh = request.read(path, namespace)
    prefix, after = request.one("prefix"), request.one("paginationToken")
    ids = sorted(id_ for id_ in space.records if id_.startswith(prefix) and id_ > after)
    answer = {"vectors": [{"id": id_} for id_ in ids[:limit]], "namespace": namespace, "usage": {"readUnits": 1}}
    if len(ids) > limit:
        answer["pagination"] = {"next": ids[limit - 1]}
    return Answer(answer, headers=fresh)


def _stats(request: Request, path: str) -> Answer:
    index = request.data.index_at(path)
    counts = {namespace: len(request.read(path, namespace)[1].records) for namespace in index.namespaces}
    return Answer(
        {
            "namespaces": {namespace: {"vectorCount": count} for namespace, count in counts.items()},
            "dimension": index.dimension,
            "indexFullness": 0.0,
            "totalVectorCount": sum(counts.values()),
            "metric": index.metric,
            "vectorType": "dense",
        }
    )


def _list_namespaces(request: Request, path: str) -> Answer:
    limit, after, prefix = int(request.one("limit", "100")), request.one("paginationToken"), request.one("prefix")
    names = sorted(
        namespace
        for namespace in request.data.index_at(path).namespaces
        if namespace.startswith(prefix) and namespace > after
    )
    answer: dict[str, Any] = {"namespaces": [_namespace(request, path, namespace) for namespace in names[:limit]]}
    if len(names) > limit:
        answer["pagination"] = {"next": names[limit - 1]}
    return Answer(answer | {"total_count": len(names)})


def _describe_namespace(request: Request, path: str, namespace: str) -> Answer:
    if namespace not in request.data.index_at(path).namespaces:
        raise Refused(404, 5, "Namespace not found")
    return Answer(_namespace(request, path, namespace))


def _namespace(request: Request, path: str, namespace: str) -> dict[str, Any]:
    return {"name": namespace, "record_count": len(request.read(path, namespace)[1].records)}


def _delete_namespace(request: Request, path: str, namespace: str) -> Answer:
    index = request.data.index_at(path)
    if namespace not in index.namespaces:
        raise Refused(404, 5, "Namespace not found")
    del index.namespaces[namespace]
    return Answer({})


_INDEX = r"/indexes/([^/]+)"
_DATA = r"/(ragstone-[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/indexes", _list_indexes),
    ("POST", "/indexes", _create_index),
    ("GET", _INDEX, _describe_index),
    ("DELETE", _INDEX, _delete_index),
    ("POST", f"{_DATA}/vectors/upsert", _upsert),
    ("POST", f"{_DATA}/query", _query),
    ("GET", f"{_DATA}/vectors/fetch", _fetch),
    ("POST", f"{_DATA}/vectors/delete", _delete),
    ("GET", f"{_DATA}/vectors/list", _list_ids),
    ("POST", f"{_DATA}/describe_index_stats", _stats),
    ("GET", f"{_DATA}/namespaces", _list_namespaces),
    ("GET", f"{_DATA}/namespaces/([^/]+)", _describe_namespace),
    ("DELETE", f"{_DATA}/namespaces/([^/]+)", _delete_namespace),
]
