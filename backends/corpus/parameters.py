"""Embeddings and ids as parameters of statements, in PostgreSQL's binary form."""

import struct
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector, Vector
from psycopg.adapt import Dumper

from backends.types import Embeddings, Ids, Precision

TYPE: dict[Precision, str] = {"half": "halfvec", "single": "vector"}
_COMPONENT: dict[Precision, str] = {"half": ">f2", "single": ">f4"}
_BIGINT_ARRAY_OID = 1016
_BIGINT_OID = 20
_BIGINT_ITEM = np.dtype([("size", ">i4"), ("value", ">i8")])


def embedding_parameter(embedding: Embeddings, precision: Precision) -> HalfVector | Vector:
    """Return a prepared query, float32 [d], as a parameter of the column's type."""
    return HalfVector(embedding) if precision == "half" else Vector(embedding)


class BigintArray:
    """Ids, int64 [n], as a parameter: thousands of them are written at once."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids


class EmbeddingArray:
    """Prepared queries, float32 [q, d], as one parameter, an array of the column's type."""

    def __init__(self, embeddings: Embeddings, precision: Precision) -> None:
        self.embeddings = embeddings
        self.precision = precision


class _BigintArrayDumper(Dumper):
    format = psycopg.pq.Format.BINARY
    oid = _BIGINT_ARRAY_OID

    def dump(self, obj: BigintArray) -> bytes:
        items = np.empty(len(obj.ids), _BIGINT_ITEM)
        items["size"], items["value"] = 8, obj.ids
        return _array(_BIGINT_OID, items)


class _EmbeddingArrayDumper(Dumper):
    """pgvector's binary form of one: how many components, 16 bits of nothing, the components."""

    format = psycopg.pq.Format.BINARY  # the statement's cast says the type

    def dump(self, obj: EmbeddingArray) -> bytes:
        assert self.connection is not None
        type_ = self.connection.adapters.types[TYPE[obj.precision]]
        count, dimension = obj.embeddings.shape
        component = np.dtype(_COMPONENT[obj.precision])
        layout = [("size", ">i4"), ("dimension", ">i2"), ("nothing", ">i2"), ("components", component, (dimension,))]
        items = np.zeros(count, np.dtype(layout))
        items["size"], items["dimension"] = 4 + component.itemsize * dimension, dimension
        items["components"] = obj.embeddings
        return _array(type_.oid, items)


def _array(item_oid: int, items: NDArray[Any]) -> bytes:
    """PostgreSQL's binary form: dimensions, nulls, the items' type, how many, the first index; then the items."""
    return struct.pack(">iiIii", 1, 0, item_oid, len(items), 1) + items.tobytes()


psycopg.adapters.register_dumper(BigintArray, _BigintArrayDumper)
psycopg.adapters.register_dumper(EmbeddingArray, _EmbeddingArrayDumper)
