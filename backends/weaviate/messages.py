"""What is said to Weaviate over gRPC, and how its replies are read. Nothing here reaches the network.

The messages are those of `weaviate.proto.v1`, which the client itself sends. Arrays go as the bytes they are.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from weaviate.proto.v1 import aggregate_pb2, base_pb2, base_search_pb2, batch_delete_pb2, batch_pb2, search_get_pb2

from backends.tokens import Combined, HasToken, Narrowing, tokens_of
from backends.types import Batch, Embeddings, Ids, Metric

TOKENS = "tokens"
MARKER = "marker"
MARKER_UUID = UUID(int=2**128 - 1)
"""Beyond every chunk's, which are below 2^63."""
NO_TOKENS = "-"
"""What a chunk without tokens has: Weaviate indexes no empty lists, so "has none of" never meets one."""
MESSAGE_BYTES = 4_000_000
"""Far below what Weaviate takes by default (GRPC_MAX_MESSAGE_SIZE, 100 MB), and soon sent again."""
ROWS_AT_ONCE = 1_000
"""Objects written, looked up or deleted by one message."""
PAGE_ROWS = 4_096
MAX_RESULTS = 10_000
"""Weaviate's own limit for one search (QUERY_MAXIMUM_RESULTS)."""

_Filters = base_pb2.Filters
_ALL = base_pb2.CONSISTENCY_LEVEL_ALL  # so that whichever replica answers next has it
_VECTOR = "default"  # the name that the client gives the only vector of a class


def objects_of(class_name: str, batch: Batch) -> list[batch_pb2.BatchObject]:
    """Make an object of every chunk: its id as UUID, its vector, its tokens."""
    rows = batch.embeddings.astype("<f4")
    return [
        batch_pb2.BatchObject(
            collection=class_name,
            uuid=str(UUID(int=id_)),
            vectors=[_vector(row, name=_VECTOR)],
            properties=batch_pb2.BatchObject.Properties(
                text_array_properties=[
                    base_pb2.TextArrayProperties(prop_name=TOKENS, values=tokens_of(attributes) or [NO_TOKENS])
                ]
            ),
        )
        for id_, row, attributes in zip(batch.ids.tolist(), rows, batch.attributes, strict=True)
    ]


def marker_object(class_name: str, text: str) -> batch_pb2.BatchObject:
    """Make the marker: an object without a vector."""
    properties = batch_pb2.BatchObject.Properties()
    properties.non_ref_properties[MARKER] = text
    return batch_pb2.BatchObject(collection=class_name, uuid=str(MARKER_UUID), properties=properties)


def in_messages(objects: Sequence[batch_pb2.BatchObject]) -> Iterator[list[batch_pb2.BatchObject]]:
    """Cut objects into pieces that one message may carry."""
    piece: list[batch_pb2.BatchObject] = []
    size_bytes = 0
    for one in objects:
        if piece and (len(piece) == ROWS_AT_ONCE or size_bytes + one.ByteSize() > MESSAGE_BYTES):
            yield piece
            piece, size_bytes = [], 0
        piece.append(one)
        size_bytes += one.ByteSize()
    if piece:
        yield piece


def write(objects: Sequence[batch_pb2.BatchObject]) -> batch_pb2.BatchObjectsRequest:
    return batch_pb2.BatchObjectsRequest(objects=objects, consistency_level=_ALL)


def delete(class_name: str, ids: Ids) -> batch_delete_pb2.BatchDeleteRequest:
    return batch_delete_pb2.BatchDeleteRequest(
        collection=class_name,
        filters=_has_uuid([str(UUID(int=id_)) for id_ in ids.tolist()]),
        consistency_level=_ALL,
    )


def count(class_name: str) -> aggregate_pb2.AggregateRequest:
    return aggregate_pb2.AggregateRequest(collection=class_name, objects_count=True)


def near(
    class_name: str, query: Embeddings, candidates: int, filters: base_pb2.Filters | None
) -> search_get_pb2.SearchRequest:
    """Ask for the nearest objects to one query, float32 [d]: their UUIDs and distances alone."""
    return _search(
        class_name,
        limit=min(candidates, MAX_RESULTS),
        near_vector=base_search_pb2.NearVector(vectors=[_vector(query.astype("<f4"))]),
        filters=filters,
        metadata=search_get_pb2.MetadataRequest(uuid=True, distance=True),
    )


def page(class_name: str, after: str) -> search_get_pb2.SearchRequest:
    """Ask for the UUIDs that follow `after` (all, where it is empty), in their order."""
    return _search(class_name, limit=PAGE_ROWS, after=after)


def look_up(class_name: str, uuids: Sequence[str], *properties: str) -> search_get_pb2.SearchRequest:
    """Ask which of these objects are there, up to ROWS_AT_ONCE, and for some of their properties."""
    return _search(
        class_name,
        limit=len(uuids),
        filters=_has_uuid(uuids),
        properties=search_get_pb2.PropertiesRequest(non_ref_properties=properties),
    )


def narrowed(narrowing: Narrowing | None, says_none_of: bool) -> base_pb2.Filters | None:
    """Write a narrowing as Weaviate's filter; None where it narrows nothing.

    Before 1.33 Weaviate cannot say "has none of" (`says_none_of` is False): such a part is left out, and what is
    proposed stays a superset.
    """
    match narrowing:
        case HasToken(tokens, negated=False):
            return _on(TOKENS, _Filters.OPERATOR_CONTAINS_ANY, tokens)
        case HasToken(tokens, negated=True) if says_none_of:
            return _on(TOKENS, _Filters.OPERATOR_CONTAINS_NONE, tokens)
        case Combined(operator, parts):
            return _joined(operator, [narrowed(part, says_none_of) for part in parts])
        case _:
            return None


def uuids_of(reply: search_get_pb2.SearchReply) -> list[str]:
    return [str(UUID(bytes=found.metadata.id_as_bytes)) for found in reply.results]


def ids_of(reply: search_get_pb2.SearchReply) -> Ids:
    """Return the chunk ids in a reply, int64, in its order."""
    return np.array([int.from_bytes(found.metadata.id_as_bytes) for found in _chunks(reply)], dtype=np.int64)


def scores_of(reply: search_get_pb2.SearchReply, metric: Metric) -> NDArray[np.float32]:
    """Return float32 scores, higher for nearer.

    Weaviate's distances are 1 - cosine, minus the inner product, and the squared Euclidean distance:
    https://docs.weaviate.io/weaviate/config-refs/distances
    """
    distances = np.array([found.metadata.distance for found in _chunks(reply)], dtype=np.float32)
    match metric:
        case "cosine":
            return np.float32(1) - distances
        case "inner_product":
            return -distances
        case "l2":
            return -np.sqrt(np.maximum(distances, np.float32(0)))


def marker_in(reply: search_get_pb2.SearchReply) -> str | None:
    """Return the marker's text from the reply to a look-up of it, None where it is not there."""
    for found in reply.results:
        return str(found.properties.non_ref_props.fields[MARKER].text_value)
    return None


def _chunks(reply: search_get_pb2.SearchReply) -> Iterator[search_get_pb2.SearchResult]:
    return (found for found in reply.results if found.metadata.id_as_bytes != MARKER_UUID.bytes)


def _search(class_name: str, **asked: Any) -> search_get_pb2.SearchRequest:
    asked.setdefault("properties", search_get_pb2.PropertiesRequest())  # none of them
    asked.setdefault("metadata", search_get_pb2.MetadataRequest(uuid=True))
    return search_get_pb2.SearchRequest(
        collection=class_name, uses_123_api=True, uses_125_api=True, uses_127_api=True, **asked
    )


def _vector(row: Embeddings, name: str = "") -> base_pb2.Vectors:
    single = base_pb2.Vectors.VECTOR_TYPE_SINGLE_FP32
    return base_pb2.Vectors(name=name, vector_bytes=row.tobytes(), type=single)


def _has_uuid(uuids: Sequence[str]) -> base_pb2.Filters:
    return _on("_id", _Filters.OPERATOR_CONTAINS_ANY, uuids)


def _on(name: str, operator: base_pb2.Filters.Operator, values: Sequence[str]) -> base_pb2.Filters:
    target = base_pb2.FilterTarget(property=name)
    return _Filters(operator=operator, target=target, value_text_array=base_pb2.TextArray(values=values))


def _joined(operator: str, parts: list[base_pb2.Filters | None]) -> base_pb2.Filters | None:
    known = [part for part in parts if part is not None]
    if not known or (operator == "or" and len(known) < len(parts)):
        return None
    if len(known) == 1:
        return known[0]
    return _Filters(operator=_Filters.OPERATOR_OR if operator == "or" else _Filters.OPERATOR_AND, filters=known)
