"""Tiny valid backups, made without PostgreSQL: chunks of dimension 3, a full backup and what goes on from it."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from ops.backup import shards
from ops.backup.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    STARTED,
    CollectionEntry,
    FileKind,
    Manifest,
    ShardFile,
    dump,
    dump_started,
    file_name,
    new_id,
)
from ops.backup.repository import Repository
from ops.backup.runs import Runs
from retrieval.embedding.base import EmbedderStamp

NOON = datetime(2024, 2, 29, 12, 0, 0, 250_000, tzinfo=UTC)
SYSTEM = 7_450_123_456_789_012_345
DIMENSION = 3
STAMP = EmbedderStamp(
    model="small",
    revision="1",
    dimension=DIMENSION,
    normalised=True,
    query_prefix="",
    passage_prefix="",
    numerics="float32",
)


def runs_of(ids: Sequence[int]) -> Runs:
    return Runs.from_ids(np.array(sorted(ids), np.int64))


def chunk_rows(ids: Sequence[int]) -> pa.RecordBatch:
    """Rows of one sentence each, in the order of their ids."""
    count = len(ids)
    embeddings = np.arange(count * DIMENSION).reshape(count, DIMENSION).astype(np.float16)
    columns = [
        pa.array(ids, pa.int64()),
        pa.array([f"d{id_}" for id_ in ids]),
        pa.array([0] * count, pa.int32()),
        pa.array([f"Title {id_}" for id_ in ids]),
        pa.array([f"The text of chunk {id_}." for id_ in ids]),
        pa.array(['{"n": 1}'] * count),
        pa.array([0] * count, pa.int32()),
        pa.array([10] * count, pa.int32()),
        pa.array([bytes(16)] * count, pa.binary()),
        shards.embedding_array(embeddings),
    ]
    return pa.record_batch(columns, shards.chunk_schema(DIMENSION, "half"))


def put_chunks(
    repository: Repository, backup_id: str, collection_id: int, number: int, ids: Sequence[int]
) -> ShardFile:
    """Write a shard of chunks, and return what the manifest says of it."""
    name = file_name(collection_id, "chunks", number)
    with repository.writing(backup_id, name) as sink:
        shards.write_chunks(sink, shards.chunk_schema(DIMENSION, "half"), [chunk_rows(ids)])
    return ShardFile(
        name=name,
        kind="chunks",
        rows=len(ids),
        size_bytes=sink.size_bytes,
        sha256=sink.sha256,
        first_id=ids[0],
        last_id=ids[-1],
    )


def put_runs(
    repository: Repository, backup_id: str, collection_id: int, kind: FileKind, ids: Sequence[int]
) -> ShardFile:
    """Write a file of runs, and return what the manifest says of it."""
    runs = runs_of(ids)
    data = shards.runs_bytes(runs.first, runs.last)
    name = file_name(collection_id, kind)
    repository.write(backup_id, name, data)
    return ShardFile(
        name=name,
        kind=kind,
        rows=len(runs.first),
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        first_id=None,
        last_id=None,
    )


def entry_of(
    files: list[ShardFile], live: Sequence[int], parent: str | None, collection_id: int = 7
) -> CollectionEntry:
    """The entry of a collection with these files."""
    return CollectionEntry(
        name=f"notes{collection_id}",
        collection_id=collection_id,
        dimension=DIMENSION,
        metric="cosine",
        precision="half",
        stamp={
            "embedder": asdict(STAMP),
            "chunker": {"name": "structure-1", "max_tokens": 256, "overlap_tokens": 32},
        },
        backend="pgvector",
        pinned_backend=None,
        placement_threshold=None,
        recall_target=0.95,
        sequence=len(live),
        documents=len(live),
        chunks=len(live),
        created_at=NOON - timedelta(days=9),
        parent=parent,
        files=files,
    )


def manifest_of(entries: list[CollectionEntry], snapshot_at: datetime) -> Manifest:
    """The manifest of these collections, full where none of them has a parent."""
    kind = "full" if all(entry.parent is None for entry in entries) else "incremental"
    return Manifest(
        format_version=FORMAT_VERSION,
        id=new_id(snapshot_at, kind),
        kind=kind,
        tool_version="0.1.0",
        postgresql_version="16.4",
        pgvector_version="0.8.1",
        system_identifier=SYSTEM,
        timeline=1,
        started_at=snapshot_at - timedelta(seconds=2),
        snapshot_at=snapshot_at,
        finished_at=snapshot_at + timedelta(seconds=3),
        index_settings={"m": 16, "ef_construction": 64},
        collections=entries,
    )


def put_full(repository: Repository, snapshot_at: datetime = NOON, key: str | None = None) -> Manifest:
    """Write a full backup of 12 chunks in two shards."""
    backup_id = new_id(snapshot_at, "full")
    files = [
        put_chunks(repository, backup_id, 7, 1, list(range(1, 8))),
        put_chunks(repository, backup_id, 7, 2, list(range(10, 15))),
        put_runs(repository, backup_id, 7, "live", [*range(1, 8), *range(10, 15)]),
    ]
    return put_manifest(repository, [entry_of(files, [*range(1, 8), *range(10, 15)], None)], snapshot_at, key)


def put_incremental(
    repository: Repository, parent: Manifest, snapshot_at: datetime, key: str | None = None
) -> Manifest:
    """Write what became of a backup: its first three chunks are gone, and five new ones are there."""
    before = live_of(repository, parent)
    new = list(range(before[-1] + 5, before[-1] + 10))
    return put_step(repository, parent, snapshot_at, new, [*before[3:], *new], before[:3], key)


def put_step(
    repository: Repository,
    parent: Manifest,
    snapshot_at: datetime,
    new: Sequence[int],
    live: Sequence[int],
    deleted: Sequence[int],
    key: str | None = None,
) -> Manifest:
    """Write an incremental backup with these ids in its files, whether they fit each other or not."""
    backup_id = new_id(snapshot_at, "incremental")
    files = [
        put_chunks(repository, backup_id, 7, 1, new),
        put_runs(repository, backup_id, 7, "live", live),
        put_runs(repository, backup_id, 7, "deletes", deleted),
    ]
    return put_manifest(repository, [entry_of(files, live, parent.id)], snapshot_at, key)


def put_manifest(
    repository: Repository, entries: list[CollectionEntry], snapshot_at: datetime, key: str | None = None
) -> Manifest:
    """Write what makes a folder a backup."""
    manifest = manifest_of(entries, snapshot_at)
    repository.write(manifest.id, STARTED, dump_started(SYSTEM, manifest.started_at))
    repository.write(manifest.id, MANIFEST, dump(manifest, key))
    return manifest


def live_of(repository: Repository, manifest: Manifest) -> list[int]:
    """The ids that were alive in a backup's only collection."""
    [file] = manifest.collections[0].of_kind("live")
    first, last = shards.read_runs(repository.read(manifest.id, file.name, file.size_bytes), file, file.name)
    return [id_ for begin, end in zip(first, last, strict=True) for id_ in range(int(begin), int(end) + 1)]
