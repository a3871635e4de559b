"""What the made-up Pinecone keeps: indexes, their namespaces, and the log of each namespace's writes."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Record = tuple[np.ndarray, dict[str, Any]]
METRICS = ("cosine", "dotproduct", "euclidean")
METADATA_BYTES = 40_960
FILTER_VALUES = 10_000


class Refused(Exception):
    """A request that Pinecone answers with an error: HTTP status, gRPC code, message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def invalid(message: str) -> Refused:
    """INVALID_ARGUMENT."""
    return Refused(400, 3, message)


@dataclass
class Namespace:
    """Records as queries see them, and the writes that they do not see yet.

    Each write gets the next number of the log. It is visible `lag_s` after it was taken, in order; the highest
    number that is visible is `indexed`.
    """

    records: dict[str, Record] = field(default_factory=dict)
    written: int = 0
    indexed: int = 0
    waiting: deque[tuple[float, int, Callable[[], None]]] = field(default_factory=deque)
    _matrix: np.ndarray | None = None

    def write(self, change: Callable[[], None], lag_s: float) -> int:
        """Take a write into the log and return its number."""
        self.written += 1
        self.waiting.append((time.monotonic() + lag_s, self.written, change))
        return self.written

    def look(self) -> None:
        """Let what is due become visible."""
        while self.waiting and self.waiting[0][0] <= time.monotonic():
            _, self.indexed, change = self.waiting.popleft()
            change()
            self._matrix = None

    def matrix(self) -> np.ndarray:
        """Return the values of all records, in their order: float32 [n, d]."""
        if self._matrix is None:
            self._matrix = np.stack([values for values, _ in self.records.values()])
        return self._matrix


@dataclass
class Index:
    """One serverless index. `path` is what tells its address from those of others."""

    name: str
    path: str
    dimension: int
    metric: str
    cloud: str
    region: str
    ready_at: float
    namespaces: dict[str, Namespace] = field(default_factory=dict)

    def score(self, query: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Score one query [d] against values [n, d] as Pinecone does; `euclidean` is the square of the distance."""
        exact, asked = values.astype(np.float64), query.astype(np.float64)
        if self.metric == "euclidean":
            squares: np.ndarray = ((exact - asked) ** 2).sum(axis=1)
            return squares
        products: np.ndarray = exact @ asked
        if self.metric == "cosine":
            products = products / (np.linalg.norm(exact, axis=1) * np.linalg.norm(asked))
        return products

    def nearest(self, space: Namespace, query: np.ndarray, top_k: int, wanted: object) -> list[tuple[str, float]]:
        """Return ids and scores of the nearest records that pass the filter, nearest first."""
        passes = [wanted is None or matches(metadata, wanted) for _, metadata in space.records.values()]
        rows = np.flatnonzero(passes)
        if not len(rows):
            return []
        scores = self.score(query, space.matrix() if len(rows) == len(passes) else space.matrix()[rows])
        order = np.argsort(scores if self.metric == "euclidean" else -scores, kind="stable")[:top_k]
        ids = list(space.records)
        return [(ids[rows[at]], float(scores[at])) for at in order]


class Data:
    """All indexes of a project, behind one lock.

    `lag_s` is how long writes stay invisible, `ready_after_s` how long a new index is not ready. `numbers_writes`
    says whether the numbers of the log are sent as headers; the local emulator does not.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.indexes: dict[str, Index] = {}
        self.lag_s = self.ready_after_s = 0.0
        self.numbers_writes = True

    def index(self, name: str) -> Index:
        """Return an index; 404 where there is none."""
        if name not in self.indexes:
            raise Refused(404, 5, f"Resource {name} not found")
        return self.indexes[name]

    def index_at(self, path: str) -> Index:
        """Return the index whose address ends so; 404 where there is none."""
        for index in self.indexes.values():
            if index.path == path:
                return index
        raise Refused(404, 5, "no index is served here")


def parsed_vector(given: Mapping[str, Any], dimension: int) -> tuple[str, Record]:
    """Check one vector of an upsert."""
    id_, values, metadata = given.get("id"), given.get("values"), given.get("metadata") or {}
    if not isinstance(id_, str) or not 1 <= len(id_) <= 512:
        raise invalid("Vector ID must be a string of 1 to 512 characters")
    vector = parsed_values(values, dimension)
    if not vector.any():
        raise invalid(f"Dense vectors must contain at least one non-zero value. Vector ID '{id_}' contains only zeros")
    if (size := len(json.dumps(metadata, separators=(",", ":")))) > METADATA_BYTES:
        raise invalid(f"Metadata size is {size} bytes, which exceeds the limit of {METADATA_BYTES} bytes per vector")
    for value in metadata.values():
        _check_metadata_value(value)
    return id_, (vector, dict(metadata))


def parsed_values(values: object, dimension: int) -> np.ndarray:
    """Check the values of a vector, which are kept as float32."""
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise invalid("Vector values must be numbers")
    if len(values) != dimension:
        raise invalid(f"Vector dimension {len(values)} does not match the dimension of the index {dimension}")
    return np.array(values, dtype=np.float32)


def _check_metadata_value(value: object) -> None:
    if isinstance(value, list) and all(isinstance(element, str) for element in value):
        return
    if not isinstance(value, str | int | float):
        raise invalid("Metadata value must be a string, number, boolean or list of strings")


def check_filter(given: object) -> None:
    """Refuse a filter that Pinecone would refuse, also where no record is there to try it on."""
    matches({}, given)


def matches(metadata: Mapping[str, Any], given: object) -> bool:
    """Whether flat metadata pass a filter: https://docs.pinecone.io/guides/search/filter-by-metadata ."""
    if not isinstance(given, dict) or not given:
        raise invalid("filter must be an object that is not empty")
    return all([_part(metadata, key, value) for key, value in given.items()])  # noqa: C419  # every part is checked


def _part(metadata: Mapping[str, Any], key: str, value: object) -> bool:
    if key in ("$and", "$or"):
        if not isinstance(value, list) or not value:
            raise invalid(f"{key} needs a list that is not empty")
        parts = [matches(metadata, part) for part in value]
        return all(parts) if key == "$and" else any(parts)
    if key.startswith("$"):
        raise invalid(f"{key} is not a valid operator here")
    conditions = value if isinstance(value, dict) else {"$eq": value}
    return all([_holds(metadata.get(key), operator, operand) for operator, operand in conditions.items()])  # noqa: C419


def _holds(found: object, operator: str, operand: Any) -> bool:
    elements = found if isinstance(found, list) else [] if found is None else [found]
    if operator in ("$in", "$nin"):
        if not isinstance(operand, list) or len(operand) > FILTER_VALUES:
            raise invalid(f"{operator} needs a list of at most {FILTER_VALUES} values")
        listed = any(_same(element, value) for element in elements for value in operand)
        return listed if operator == "$in" else not listed
    if operator in ("$eq", "$ne"):
        equal = any(_same(element, operand) for element in elements)
        return equal if operator == "$eq" else not equal
    if operator == "$exists":
        return (found is not None) == bool(operand)
    if operator not in _ORDER or isinstance(operand, bool) or not isinstance(operand, int | float):
        raise invalid(f"the {operator} operator must be followed by a number, or is not known")
    holds = _ORDER[operator]
    return any(type(element) in (int, float) and bool(holds(element, operand)) for element in elements)


def _same(element: object, value: object) -> bool:
    return isinstance(element, bool) == isinstance(value, bool) and element == value


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda element, bound: element > bound,
    "$gte": lambda element, bound: element >= bound,
    "$lt": lambda element, bound: element < bound,
    "$lte": lambda element, bound: element <= bound,
}
