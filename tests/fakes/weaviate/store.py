"""What the test server keeps: classes, objects and vectors, with exact search in NumPy."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
from weaviate.proto.v1 import base_pb2

DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cosine": lambda query, rows: 1 - _unit(rows) @ _unit(query[None])[0],
    "dot": lambda query, rows: -(rows @ query),
    "l2-squared": lambda query, rows: ((rows - query) ** 2).sum(axis=1),
}
MAX_RESULTS = 10_000


class Refused(Exception):
    """What the server answers instead of a result."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One object. Its vector is found by searches from `visible_at`, a monotonic time."""

    uuid: UUID
    properties: dict[str, Any]
    vector: np.ndarray | None
    visible_at: float


@dataclass(slots=True)
class StoredClass:
    """One class: its configuration as it was given, and its objects by UUID."""

    config: dict[str, Any]
    objects: dict[UUID, Stored] = field(default_factory=dict)
    dimension: int | None = None

    @property
    def name(self) -> str:
        return str(self.config["class"])

    @property
    def distance(self) -> str:
        return str(self.config["vectorConfig"]["default"]["vectorIndexConfig"]["distance"])

    @property
    def property_names(self) -> set[str]:
        return {made["name"] for made in self.config["properties"]}

    @property
    def waiting(self) -> int:
        """How many vectors no search finds yet."""
        now = time.monotonic()
        return sum(one.vector is not None and one.visible_at > now for one in self.objects.values())

    def put(self, one: Stored) -> None:
        if unknown := one.properties.keys() - self.property_names:
            raise Refused(f"no such prop with name '{sorted(unknown)[0]}' found in class '{self.name}' in the schema")
        if one.vector is not None:
            self.dimension = self.dimension or len(one.vector)
            if len(one.vector) != self.dimension:
                raise Refused(f"vector lengths don't match: {self.dimension} vs {len(one.vector)}")
        self.objects[one.uuid] = one

    def nearest(
        self, query: np.ndarray, limit: int, filters: base_pb2.Filters | None
    ) -> list[tuple[Stored, float | None]]:
        now = time.monotonic()
        found = [one for one in self.matching(filters) if one.vector is not None and one.visible_at <= now]
        if not found:
            return []
        if len(query) != self.dimension:
            raise Refused(f"vector lengths don't match: {self.dimension} vs {len(query)}")
        distances = DISTANCES[self.distance](query, np.stack([one.vector for one in found if one.vector is not None]))
        return [(found[at], float(distances[at])) for at in np.argsort(distances, kind="stable")[:limit]]

    def matching(self, filters: base_pb2.Filters | None) -> list[Stored]:
        """The objects that a filter lets through, in the order of their UUIDs."""
        if filters is not None and filters.target.property == "_id":  # also the fast way for real
            asked = {UUID(text) for text in filters.value_text_array.values}
            return [self.objects[uuid] for uuid in sorted(asked & self.objects.keys(), key=str)]
        found = sorted(self.objects.values(), key=lambda one: one.uuid.bytes)
        return [one for one in found if filters is None or self._holds(filters, one)]

    def _holds(self, filters: base_pb2.Filters, one: Stored) -> bool:
        operator = base_pb2.Filters.Operator.Name(filters.operator).removeprefix("OPERATOR_")
        if operator in ("AND", "OR"):
            return (all if operator == "AND" else any)(self._holds(part, one) for part in filters.filters)
        if operator == "NOT":
            return not self._holds(filters.filters[0], one)
        name = filters.target.property
        if name != "_id" and name not in self.property_names:
            raise Refused(f"no such prop with name '{name}' found in class '{self.name}' in the schema")
        has = {str(one.uuid)} if name == "_id" else set(_values(one.properties.get(name)))
        return _compared(operator, has, filters)


def _compared(operator: str, has: set[str], filters: base_pb2.Filters) -> bool:
    wanted = set(filters.value_text_array.values) or {filters.value_text}
    match operator:
        case "CONTAINS_ANY" | "EQUAL":
            return bool(has & wanted)
        case "CONTAINS_ALL":
            return wanted <= has
        case "CONTAINS_NONE" | "NOT_EQUAL":
            return not has & wanted
        case _:
            raise Refused(f"the test server does not know the operator {operator}")


def _values(found: object) -> Sequence[str]:
    if found is None:
        return []
    return found if isinstance(found, list) else [str(found)]


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


class Store:
    """Every class. `lock` is held while anything here is read or changed."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.classes: dict[str, StoredClass] = {}

    def get(self, name: str) -> StoredClass:
        if name not in self.classes:
            raise Refused(f"could not find class {name} in schema")
        return self.classes[name]

    def create(self, config: dict[str, Any]) -> StoredClass:
        name = config.get("class", "")
        if not (name[:1].isupper() and name.replace("_", "").isalnum() and name.isascii()):
            raise Refused(f"'{name}' is not a valid class name")
        if name in self.classes:
            raise Refused(f"class name {name} already exists")
        made = StoredClass({"properties": [], "vectorConfig": {}, **config})
        if made.distance not in DISTANCES:
            raise Refused(f"unrecognized distance metric {made.distance!r}")
        self.classes[name] = made
        return made
