"""Weaviate's gRPC service, on the messages that weaviate-client generates from Weaviate's own .proto files."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn
from uuid import UUID

import grpc
import numpy as np
from weaviate.proto.v1 import (
    aggregate_pb2,
    base_pb2,
    batch_delete_pb2,
    batch_pb2,
    health_weaviate_pb2,
    properties_pb2,
    search_get_pb2,
    weaviate_pb2_grpc,
)

from tests.fakes.weaviate.manners import CODES, Behaviour
from tests.fakes.weaviate.store import MAX_RESULTS, Refused, Store, Stored

MESSAGE_BYTES = 104_858_000
DEFAULT_LIMIT = 10


class Service(weaviate_pb2_grpc.WeaviateServicer):
    """Search, BatchObjects, BatchDelete and Aggregate; what else there is stays unimplemented."""

    def __init__(self, store: Store, behaviour: Behaviour, api_key: str | None) -> None:
        self._store = store
        self._behaviour = behaviour
        self._api_key = api_key

    def Search(self, request: Any, context: grpc.ServicerContext) -> search_get_pb2.SearchReply:  # noqa: N802
        with self._call("Search", context):
            limit = request.limit or DEFAULT_LIMIT
            if limit > MAX_RESULTS:
                raise Refused(f"query maximum results exceeded: {limit}")
            found = _found(self._store, request, limit)
            return search_get_pb2.SearchReply(results=[_result(request, one, distance) for one, distance in found])

    def BatchObjects(self, request: Any, context: grpc.ServicerContext) -> batch_pb2.BatchObjectsReply:  # noqa: N802
        with self._call("BatchObjects", context):
            reply = batch_pb2.BatchObjectsReply()
            if self._behaviour.uses_up("lose_next"):
                return reply
            for index, given in enumerate(request.objects):
                try:
                    if self._behaviour.uses_up("refuse_next"):
                        raise Refused("put object: the disk is full")
                    self._store.get(given.collection).put(_stored(given, self._behaviour.visible_at()))
                except Refused as refusal:
                    reply.errors.add(index=index, error=str(refusal))
            return reply

    def BatchDelete(self, request: Any, context: grpc.ServicerContext) -> batch_delete_pb2.BatchDeleteReply:  # noqa: N802
        with self._call("BatchDelete", context):
            kept = self._store.get(request.collection)
            found = kept.matching(request.filters)[:MAX_RESULTS]
            for one in found:
                del kept.objects[one.uuid]
            return batch_delete_pb2.BatchDeleteReply(matches=len(found), successful=len(found))

    def Aggregate(self, request: Any, context: grpc.ServicerContext) -> aggregate_pb2.AggregateReply:  # noqa: N802
        with self._call("Aggregate", context):
            count = len(self._store.get(request.collection).objects)
            return aggregate_pb2.AggregateReply(single_result={"objects_count": count})

    @contextmanager
    def _call(self, name: str, context: grpc.ServicerContext) -> Iterator[None]:
        if (fault := self._behaviour.before(name)) is not None:
            code = grpc.StatusCode.UNAVAILABLE if fault.status is None else CODES[fault.status]
            context.abort(code, "connection reset by peer" if fault.status is None else "told to fail")
        sent = dict(context.invocation_metadata()).get("authorization")
        if self._api_key is not None and sent != f"Bearer {self._api_key}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "extract auth: unauthorized: invalid api key")
        try:
            with self._store.lock:
                yield
        except Refused as refusal:
            _abort(context, str(refusal))


def _abort(context: grpc.ServicerContext, details: str) -> NoReturn:
    context.abort(grpc.StatusCode.UNKNOWN, details)  # as Weaviate does with an error that has no code
    raise AssertionError("abort raises")


def _found(store: Store, request: Any, limit: int) -> list[tuple[Stored, float | None]]:
    kept = store.get(request.collection)
    filters = request.filters if request.HasField("filters") else None
    if request.HasField("near_vector"):
        if request.after:
            raise Refused("cursor api: near<Media> search is not compatible with 'after' parameter")
        return kept.nearest(_query(request.near_vector), limit, filters)
    if request.after and filters is not None:
        raise Refused("cursor api: where filter is not compatible with 'after' parameter")
    after = UUID(request.after).bytes if request.after else b""
    return [(one, None) for one in kept.matching(filters) if one.uuid.bytes > after][:limit]


def _query(near: Any) -> np.ndarray:
    """The query, in each of the encodings that a client may send."""
    if near.vectors:
        return _floats(near.vectors[0].vector_bytes)
    if near.vector_for_targets:
        target = near.vector_for_targets[0]
        return _floats(target.vectors[0].vector_bytes if target.vectors else target.vector_bytes)
    return _floats(near.vector_bytes) if near.vector_bytes else np.array(near.vector, np.float32)


def _floats(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype="<f4")


def _result(request: Any, one: Stored, distance: float | None) -> search_get_pb2.SearchResult:
    asked = request.metadata
    metadata = search_get_pb2.MetadataResult()
    if asked.uuid:
        metadata.id, metadata.id_as_bytes = str(one.uuid), one.uuid.bytes
    if asked.distance and distance is not None:
        metadata.distance, metadata.distance_present = distance, True
    if asked.vector or asked.vectors:
        metadata.vectors.extend(_vectors(one))
    every = not request.HasField("properties") or request.properties.return_all_nonref_properties
    names = one.properties.keys() if every else request.properties.non_ref_properties
    fields = {name: _value(one.properties[name]) for name in names if name in one.properties}
    properties = search_get_pb2.PropertiesResult(
        non_ref_props=properties_pb2.Properties(fields=fields), target_collection=request.collection
    )
    return search_get_pb2.SearchResult(metadata=metadata, properties=properties)


def _vectors(one: Stored) -> list[base_pb2.Vectors]:
    if one.vector is None:
        return []
    single = base_pb2.Vectors.VECTOR_TYPE_SINGLE_FP32
    return [base_pb2.Vectors(name="default", vector_bytes=one.vector.astype("<f4").tobytes(), type=single)]


def _value(found: Any) -> properties_pb2.Value:
    if isinstance(found, list):
        return properties_pb2.Value(list_value={"text_values": {"values": found}})
    return properties_pb2.Value(text_value=str(found))


def _stored(given: Any, visible_at: float) -> Stored:
    try:
        uuid = UUID(given.uuid)
    except ValueError as fault:
        raise Refused(f"invalid UUID format: {given.uuid!r}") from fault
    properties: dict[str, Any] = dict(given.properties.non_ref_properties.items())
    properties |= {array.prop_name: list(array.values) for array in given.properties.text_array_properties}
    if any(vector.name != "default" for vector in given.vectors):
        raise Refused(f"collection {given.collection} does not have that named vector")
    data = given.vectors[0].vector_bytes if given.vectors else given.vector_bytes
    if not data:
        return Stored(uuid, properties, None, visible_at)
    vector = _floats(data)
    if not np.isfinite(vector).all():
        raise Refused("vector contains NaN or an infinite value")
    return Stored(uuid, properties, vector, visible_at)


def grpc_server(store: Store, behaviour: Behaviour, api_key: str | None, port: int) -> tuple[grpc.Server, int]:
    """Start the service, with the health check beside it, and return it with its port."""
    server = grpc.server(
        ThreadPoolExecutor(32),
        options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MESSAGE_BYTES)],
    )
    weaviate_pb2_grpc.add_WeaviateServicer_to_server(Service(store, behaviour, api_key), server)
    server.add_generic_rpc_handlers([_health(behaviour)])
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, bound


def _health(behaviour: Behaviour) -> grpc.GenericRpcHandler:
    def check(_request: Any, context: grpc.ServicerContext) -> health_weaviate_pb2.WeaviateHealthCheckResponse:
        if (fault := behaviour.before("Check")) is not None:
            context.abort(CODES[fault.status or 503], "told to fail")
        return health_weaviate_pb2.WeaviateHealthCheckResponse(
            status=health_weaviate_pb2.WeaviateHealthCheckResponse.SERVING
        )

    handlers: dict[str, Callable[..., Any]] = {
        "Check": grpc.unary_unary_rpc_method_handler(
            check,
            request_deserializer=health_weaviate_pb2.WeaviateHealthCheckRequest.FromString,
            response_serializer=health_weaviate_pb2.WeaviateHealthCheckResponse.SerializeToString,
        )
    }
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers)
