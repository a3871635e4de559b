"""Collections in the corpus: their rows, their tables, what is known of them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypedDict

import psycopg
from psycopg.types.json import Jsonb

from backends.corpus.database import Connection, Database
from backends.corpus.queries import query
from backends.errors import CollectionExists, CollectionNotFound, WriteConflict
from backends.types import IndexIdentity, IndexSpec, Precision

BUILD_LOCK_SPACE = 0x6275  # "bu": the first half of an index builder's advisory lock; the collection's id is the second
DELETE_ATTEMPTS = 5
_STATE = (
    "id",
    "name",
    "stamp",
    "sequence",
    "documents",
    "chunks",
    "created_at",
    "backend",
    "index_id",
    "placement_threshold",
    "recall_target",
    "pinned_backend",
    "efforts",
    "prompt",
)
COLUMN_TYPE: dict[Precision, str] = {"half": "halfvec", "single": "vector"}


class OwnSettings(TypedDict, total=False):
    """What a collection has of its own; None leaves it to the service's settings, what is not given stays as it is."""

    placement_threshold: int | None
    recall_target: float | None
    prompt: dict[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionState:
    """A collection as the corpus had it when asked. `stamp` is None where users bring their own embeddings.

    `backend` and `index_id` name the index that serves. What is None of the next three, the service's settings say.
    `efforts` are what searches take, by backend and by band of filter selectivity, where that was tuned. `prompt` is
    whatever who generates answers keeps here, or None.
    """

    id: int
    name: str
    spec: IndexSpec
    stamp: dict[str, Any] | None
    sequence: int
    documents: int
    chunks: int
    backend: str
    index_id: int
    created_at: datetime
    placement_threshold: int | None = None
    recall_target: float | None = None
    pinned_backend: str | None = None
    efforts: dict[str, dict[str, int]] = field(default_factory=dict)
    prompt: dict[str, str] | None = None


def create_collection(
    database: Database,
    name: str,
    spec: IndexSpec,
    stamp: dict[str, Any] | None,
    backend: str,
    *,
    own: OwnSettings | None = None,
) -> CollectionState:
    """Create an empty collection with its tables, in one transaction; raises CollectionExists."""
    try:
        with database.transaction() as connection:
            create_keys(connection, insert_collection(connection, name, spec, stamp, backend))
            _configure(connection, name, own or OwnSettings())
    except psycopg.errors.UniqueViolation as error:
        raise CollectionExists(
            f"collection {name!r} exists already; delete it first, or choose another name"
        ) from error
    return find_collection(database, name)


def find_collection(database: Database, name: str) -> CollectionState:
    """Return the collection of this name; raises CollectionNotFound."""
    with database.connection() as connection:
        row = connection.execute(query("collections", "find_collection"), {"name": name}).fetchone()
    if row is None:
        raise CollectionNotFound(f"there is no collection {name!r}; create it first")
    return _state(row)


def collection_states(rows: Iterable[tuple[Any, ...]]) -> list[CollectionState]:
    """Return collections from rows that have the columns of `find_collection`."""
    return [_state(row) for row in rows]


def configure_collection(database: Database, name: str, own: OwnSettings) -> CollectionState:
    """Set what is given, and return the collection as it is then; raises CollectionNotFound."""
    with database.connection() as connection:
        _configure(connection, name, own)
    return find_collection(database, name)


def list_collections(database: Database) -> list[str]:
    """Return every collection's name, in bytewise order."""
    with database.connection() as connection:
        return [row[0] for row in connection.execute(query("collections", "list_collections"))]


def delete_collection(database: Database, name: str) -> None:
    """Delete a collection and all that it holds, after the writes in flight; raises CollectionNotFound."""
    state = find_collection(database, name)
    for _ in range(DELETE_ATTEMPTS):
        try:
            return _drop(database, state)
        except psycopg.errors.DeadlockDetected:
            continue  # with a build that began just now: it is cancelled at the next attempt
        except psycopg.errors.UndefinedTable as error:
            raise gone(name) from error
    raise WriteConflict(f"collection {name!r} is in use all the time; try again")


def gone(name: str) -> CollectionNotFound:
    """Return the error for a collection that was there when the caller opened it."""
    return CollectionNotFound(f"there is no collection {name!r}: it was deleted a moment ago")


@contextmanager
def tables_of(name: str) -> Iterator[None]:
    """Say CollectionNotFound where the tables of a collection are gone."""
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise gone(name) from error


def identity(database: Database, collection: CollectionState) -> IndexIdentity:
    """Return what the index of this state must carry to be this collection's."""
    with database.connection() as connection:
        row = connection.execute(query("collections", "identity")).fetchone()
    assert row is not None
    return IndexIdentity(
        collection_id=collection.id, system_identifier=row[0], timeline=row[1], index_id=collection.index_id
    )


def _state(row: tuple[Any, ...]) -> CollectionState:
    dimension, metric, precision, *rest = row
    spec = IndexSpec(dimension=dimension, metric=metric, precision=precision)
    return CollectionState(spec=spec, **dict(zip(_STATE, rest, strict=True)))


def _configure(connection: Connection, name: str, own: OwnSettings) -> None:
    prompt = own.get("prompt")
    values = {
        "name": name,
        "named": list(own),
        "placement_threshold": own.get("placement_threshold"),
        "recall_target": own.get("recall_target"),
        "prompt": None if prompt is None else Jsonb(prompt),
    }
    connection.execute(query("collections", "configure_collection"), values)


def _drop(database: Database, state: CollectionState) -> None:
    values = {"collection_id": state.id, "lock": BUILD_LOCK_SPACE}
    with database.transaction() as connection:
        connection.execute(query("collections", "cancel_builders"), values)
        connection.execute(query("collections", "drop_tables", state.id))
        connection.execute(query("collections", "delete_collection"), values)


def insert_collection(
    connection: Connection, name: str, spec: IndexSpec, stamp: dict[str, Any] | None, backend: str
) -> int:
    """Add a collection and its tables, without their keys, in the caller's transaction; returns its id."""
    values = {
        "name": name,
        "dimension": spec.dimension,
        "metric": spec.metric,
        "precision": spec.precision,
        "stamp": None if stamp is None else Jsonb(stamp),
    }
    row = connection.execute(query("collections", "create_collection"), values).fetchone()
    assert row is not None
    collection_id: int = row[0]
    column = f"{COLUMN_TYPE[spec.precision]}({spec.dimension})"
    connection.execute(query("collections", "create_chunk_table", collection_id))
    connection.execute(query("collections", "create_embedding_table", collection_id, type=column))
    connection.execute(query("collections", "register_index"), {"collection_id": collection_id, "backend": backend})
    return collection_id


def create_keys(connection: Connection, collection_id: int) -> None:
    """Give a collection's tables their keys; raises UniqueViolation where chunks are there twice."""
    for name in ("create_chunk_key", "create_document_key", "create_embedding_key"):
        connection.execute(query("collections", name, collection_id))
