"""The Weaviate class that an index lives in: its name, how it is made, and when all that was written is indexed."""

import time
from collections.abc import Callable

from weaviate import WeaviateClient
from weaviate.classes.config import Configure, DataType, Property, Tokenization, VectorDistances
from weaviate.collections.classes.cluster import Shard

from backends.errors import IndexUnavailable
from backends.types import IndexIdentity, IndexSpec, Metric
from backends.weaviate.connection import Connection
from backends.weaviate.messages import MARKER, TOKENS

EF_CONSTRUCTION = 128
MAX_CONNECTIONS = 32
ROWS_INDEXED_PER_S = 200
"""The slowest that a Weaviate that indexes in the background is waited for."""
MAX_PAUSE_S = 1.0

_DISTANCES: dict[Metric, VectorDistances] = {
    "cosine": VectorDistances.COSINE,
    "inner_product": VectorDistances.DOT,
    "l2": VectorDistances.L2_SQUARED,
}


def class_name(identity: IndexIdentity) -> str:
    """Return the index's name as Weaviate takes it: a capital first, then letters, digits and underscores."""
    return identity.name.replace("-", "_").capitalize()


def made_anew(name: str, spec: IndexSpec, ef_search: int) -> Callable[[WeaviateClient], None]:
    """Return the call that drops the class, if it is there, and makes an empty one.

    One call, so that trying again also works where the answer was lost after the class was made.
    """

    def call(client: WeaviateClient) -> None:
        client.collections.delete(name)
        client.collections.create(
            name,
            properties=[
                Property(
                    name=TOKENS,
                    data_type=DataType.TEXT_ARRAY,
                    tokenization=Tokenization.FIELD,
                    index_filterable=True,
                    index_searchable=False,
                ),
                Property(name=MARKER, data_type=DataType.TEXT, index_filterable=False, index_searchable=False),
            ],
            vector_config=Configure.Vectors.self_provided(
                vector_index_config=Configure.VectorIndex.hnsw(
                    distance_metric=_DISTANCES[spec.metric],
                    ef=ef_search,
                    ef_construction=EF_CONSTRUCTION,
                    max_connections=MAX_CONNECTIONS,
                    # From 1.33 on the server compresses by default; what it then calls a distance is rough.
                    quantizer=Configure.VectorIndex.Quantizer.none(),
                )
            ),
            inverted_index_config=Configure.inverted_index(
                index_timestamps=False, index_null_state=False, index_property_length=False
            ),
        )

    return call


def wait_until_indexed(connection: Connection, name: str, rows: int) -> None:
    """Wait until every vector written is in the vector index, on every node.

    With ASYNC_INDEXING Weaviate acknowledges a write before searches can find it. Raises IndexUnavailable where
    that takes longer than a call that writes and ROWS_INDEXED_PER_S allow, for `rows` or for all that waits.
    """
    began, pause_s = connection.until(writing=True), 0.01
    most_waiting = rows
    while True:
        shards = connection.rest(lambda client: _shards(client, name))
        if shards and all(_indexed(shard) for shard in shards):
            return
        waiting = sum(shard.vector_queue_length for shard in shards)
        most_waiting = max(most_waiting, waiting)
        if time.monotonic() + pause_s >= began + most_waiting / ROWS_INDEXED_PER_S:
            raise IndexUnavailable(f"Weaviate at {connection.url} has not indexed {waiting} vectors of {name} in time")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _shards(client: WeaviateClient, name: str) -> list[Shard]:
    return [shard for node in client.cluster.nodes(collection=name, output="verbose") for shard in node.shards]


def _indexed(shard: Shard) -> bool:
    return shard.vector_queue_length == 0 and shard.vector_indexing_status == "READY"
