"""Weaviate and Pinecone: what they themselves say of how they are."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.corpus.collections import identity
from backends.errors import IndexUnavailable, InvalidSettings
from ops.health.check import Check, CheckFunction, level_above
from ops.health.looking import Look, of_each

if TYPE_CHECKING:
    from backends.pinecone.connection import Connection  # imported where they are used: each needs its driver
    from backends.pinecone.namespace import Namespace

QUEUE_WARN, QUEUE_CRIT = 1_000, 100_000
"""Vectors that no search finds yet. Ragstone waits for its own; Weaviate indexes some hundreds a second and core."""
WEAVIATE_FLOOR = (1, 33)
"""From here on it takes filters that leave out ($ne, $nin); before, they narrow nothing there."""
FULL_WARN, FULL_CRIT = 0.8, 0.95
FRESHNESS_QUERIES = 5
INDEXED_LSN = "x-pinecone-max-indexed-lsn"


@of_each("weaviate")
def weaviate_nodes(look: Look) -> Iterator[Check]:
    """Nodes that are not healthy, and as checks of their own what else they say: queue, replicas, version."""
    nodes = _nodes(look)
    ill = [f"{node.name} is {node.status}" for node in nodes if node.status != "HEALTHY"]
    ill += [
        f"a shard on {node.name} is {shard.vector_indexing_status}"
        for node in nodes
        for shard in node.shards
        if shard.vector_indexing_status not in ("READY", "INDEXING")
    ]
    yield look.says(
        "crit" if ill else "ok",
        value=float(len(ill)),
        threshold="0",
        detail=", ".join(ill) or f"{len(nodes)} healthy",
        hint="bring the node back: searches miss what it alone holds",
    )
    yield _queue(look, sum(shard.vector_queue_length for node in nodes for shard in node.shards))
    yield _replicas(look, nodes)
    yield _version(look, min(_numbers(node.version) for node in nodes))


def _queue(look: Look, waiting: int) -> Check:
    return look.says(
        level_above(waiting, QUEUE_WARN, QUEUE_CRIT),
        name="weaviate_queue",
        value=float(waiting),
        unit="vectors",
        threshold=f"at most {QUEUE_WARN:,}",
        detail="wait to be indexed, and no search finds them yet" if waiting else "",
        hint="it indexes too slowly: give Weaviate more cores, or write less at once",
    )


def _replicas(look: Look, nodes: list[Any]) -> Check:
    """Compare how many objects the replicas of each shard count."""
    held: dict[str, list[int]] = {}
    for node in nodes:
        for shard in node.shards:
            held.setdefault(shard.name, []).append(shard.object_count)
    apart = max((max(counts) - min(counts) for counts in held.values()), default=0)
    return look.says(
        "warn" if apart else "ok",
        name="weaviate_replicas",
        value=float(apart),
        unit="objects",
        threshold="0",
        detail=f"replicas of a shard differ by {apart} objects" if apart else "",
        hint="what is found depends on the node that answers: repair Weaviate's replicas, or `--fix` index_count",
    )


def _version(look: Look, found: tuple[int, int]) -> Check:
    return look.says(
        "ok" if found >= WEAVIATE_FLOOR else "warn",
        name="weaviate_version",
        threshold=f"at least {WEAVIATE_FLOOR[0]}.{WEAVIATE_FLOOR[1]}",
        detail=f"Weaviate {found[0]}.{found[1]}",
        hint="before, filters with $ne and $nin narrow nothing in Weaviate, so that such searches take longer",
    )


def _nodes(look: Look) -> list[Any]:
    """Ask the cluster for the class's nodes and shards. Raises IndexUnavailable, also where there is no such class."""
    settings = look.subject.rag.settings
    if settings.weaviate_url is None:
        raise InvalidSettings("weaviate_url", "found none; needed Weaviate's address (RAGSTONE_WEAVIATE_URL)")
    from backends.weaviate.classes import class_name
    from backends.weaviate.connection import Connection

    key = settings.weaviate_api_key
    name = class_name(identity(look.subject.database, look.state))
    connection = Connection(
        settings.weaviate_url,
        settings.weaviate_grpc_port,
        None if key is None else key.get_secret_value(),
        min(settings.backend_timeout_s, look.subject.left_s),
    )
    with closing(connection):
        found = connection.rest(lambda client: client.cluster.nodes(collection=name, output="verbose"))
    if not found:
        raise IndexUnavailable(f"Weaviate at {settings.weaviate_url} names no node for {name}")
    return list(found)


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


@of_each("pinecone")
def pinecone_status(look: Look) -> Iterator[Check]:
    """Whether Pinecone calls its index ready."""
    with _pinecone(look) as (connection, _):
        status = connection.describe().status
    yield look.says(
        "ok" if status.ready else "crit",
        value=float(status.ready),
        threshold="1",
        detail=str(status.state),
        hint="see the index in Pinecone's console, and https://status.pinecone.io",
    )


@of_each("pinecone")
def pinecone_fullness(look: Look) -> Iterator[Check]:
    """How full the index is; serverless ones, which Ragstone makes, never are."""
    with _pinecone(look) as (connection, _):
        stats = connection.call("count", lambda index, timeout_s: index.describe_index_stats(timeout=timeout_s))
    full = float(stats.index_fullness or 0.0)
    yield look.says(
        level_above(full, FULL_WARN, FULL_CRIT),
        value=full,
        unit="share",
        threshold=f"at most {FULL_WARN:g}",
        hint="a full index takes no more: add pods, or move to a serverless index",
    )


@of_each("pinecone")
def pinecone_freshness(look: Look) -> Iterator[Check]:
    """By how much Pinecone's answers are behind what was seen to be visible there before.

    Each answer to a query says up to which number of its log it has seen (x-pinecone-max-indexed-lsn), and the marker
    which change of the corpus: one that goes backwards comes from a copy that does not keep up.
    """
    with _pinecone(look) as (_, namespace):
        numbers = _log_numbers(namespace, look.state.spec.dimension)
        marker = namespace.marker_metadata() or {}
    marked, applied = int(marker.get("applied", 0)), look.row.applied or 0
    back = int((np.maximum.accumulate(numbers) - numbers).max()) if numbers else 0
    lag = max(applied - marked, back, 0)
    said = f"log numbers {min(numbers)} to {max(numbers)}" if numbers else "no log numbers (the local emulator?)"
    yield look.says(
        "warn" if lag else "ok",
        value=float(lag),
        unit="changes",
        threshold="0",
        detail=f"{said}; the marker says {marked}, the corpus {applied}",
        hint="answers come from before the last writes: see https://status.pinecone.io; index_ids says what is lost",
    )


def _log_numbers(namespace: "Namespace", dimension: int) -> list[int]:
    """Ask some queries, and return the number of the log that each answer has seen, where the server numbers."""
    probe = [1.0] + [0.0] * (dimension - 1)
    answers = [namespace.query(probe, 1, None) for _ in range(FRESHNESS_QUERIES)]
    headers = [answer.response_info.raw_headers if answer.response_info else {} for answer in answers]
    return [int(header[INDEXED_LSN]) for header in headers if header.get(INDEXED_LSN, "").isdigit()]


@contextmanager
def _pinecone(look: Look) -> "Iterator[tuple[Connection, Namespace]]":
    """Connect to the index of Pinecone's that holds ours, and to our namespace in it."""
    with look.subject.opened(look.row) as index:  # is it configured, and what are their names?
        names = index.stats().details
    from backends.pinecone.connection import Connection, Reached, Target
    from backends.pinecone.namespace import Namespace
    from backends.pinecone.rows import METRICS

    settings, spec = look.subject.rag.settings, look.state.spec
    assert settings.pinecone_api_key is not None
    reached = Reached(
        host=settings.pinecone_host,
        api_key=settings.pinecone_api_key.get_secret_value(),
        cloud=settings.pinecone_cloud,
        region=settings.pinecone_region,
        timeout_s=min(settings.backend_timeout_s, look.subject.left_s),
    )
    name, metric = names["pinecone_index"], METRICS[spec.metric]
    connection = Connection(Target(name=name, dimension=spec.dimension, metric=metric, reached=reached))
    with closing(connection):
        yield connection, Namespace(connection, names["namespace"], settings.backend_timeout_s)


CHECKS: tuple[CheckFunction, ...] = (weaviate_nodes, pinecone_status, pinecone_fullness, pinecone_freshness)
