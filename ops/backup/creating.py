"""Makes a backup: one snapshot of the corpus, read in pieces by several sessions, and the manifest last of all."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

from backends.corpus.backups import BackupRun, backup_lock, record_run
from backends.corpus.collections import CollectionState
from backends.corpus.database import errors_mapped
from backends.corpus.exporting import CorpusSnapshot, SnapshotReader, corpus_snapshot
from backends.errors import BackupDamaged, CollectionNotFound, Conflict, InvalidInput, NotFound, RagstoneError
from backends.pgvector import EF_CONSTRUCTION, M
from ops.backup import shards
from ops.backup.addresses import address
from ops.backup.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    STARTED,
    CollectionEntry,
    FileKind,
    Kind,
    Manifest,
    ShardFile,
    dump,
    dump_started,
    file_name,
    new_id,
    parse_started,
)
from ops.backup.parents import Parent, find_parents
from ops.backup.planning import Piece, Plan, plan_collection
from ops.backup.progress import Meter, Watch, nobody
from ops.backup.reading import ReaderPool, batches, reader_pool
from ops.backup.records import MAX_RECORD_BYTES
from ops.backup.repository import Repository
from ops.backup.runs import Runs
from retrieval.config import Settings
from retrieval.library import Ragstone

MOST_JOBS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """One collection in a backup: `chunks` in all, of which `written` are in this backup and the rest in its parents.

    `parent` is None for a backup that is complete in itself.
    """

    name: str
    documents: int
    chunks: int
    written: int
    sequence: int
    parent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What was made. `left_out` are collections that were deleted while it was made."""

    id: str
    kind: str
    repository: str
    snapshot_at: datetime
    collections: list[BackedUp]
    left_out: list[str]
    files: int
    size_bytes: int
    duration_s: float


def create(
    rag: Ragstone,
    repo: str,
    *,
    incremental: bool = False,
    collections: Sequence[str] | None = None,
    jobs: int = 2,
    watch: Watch = nobody,
) -> Backup:
    """Back up the corpus, or the collections named, as they are at one instant, while writes go on.

    `repo` is a folder, s3:// or gs://. An incremental backup has of each collection what its newest backup there
    lacks; a collection that has none is complete. Its outcome is written down in the corpus, for whoever watches.
    Raises CollectionNotFound, Conflict while another process of this corpus writes to the repository, and
    RepositoryUnavailable; what was written is removed then, and earlier backups stay as they are.
    """
    started_s = time.monotonic()
    if not 1 <= jobs <= MOST_JOBS:
        raise InvalidInput("jobs", f"found {jobs}; needed 1 to {MOST_JOBS}")
    if collections is not None and not collections:
        raise InvalidInput("collections", "found none; needed names, or None for all that there are")
    try:
        repository = Repository.open(repo, create=True)
        with backup_lock(rag.database, repository.url), errors_mapped():
            made = _Creation(rag, repository, jobs, watch).run(collections, incremental, started_s)
            _record(rag, address(repo), made, None, made.duration_s)
    except (InvalidInput, NotFound):  # nobody's backup failed: this is no backup that anybody could make
        raise
    except BaseException as error:
        problem = str(error) or type(error).__name__
        with suppress(RagstoneError):  # a corpus that is away is told of by that it is away
            _record(rag, address(repo), None, problem, time.monotonic() - started_s)
        raise
    return made


class _Creation:
    """One backup under way."""

    def __init__(self, rag: Ragstone, repository: Repository, jobs: int, watch: Watch) -> None:
        self._rag = rag
        self._repository = repository
        self._jobs = jobs
        self._watch = watch
        secret = rag.settings.backup_key
        self._key = None if secret is None else secret.get_secret_value()

    def run(self, names: Sequence[str] | None, incremental: bool, started_s: float) -> Backup:
        started_at = datetime.now(UTC)
        with corpus_snapshot(self._rag.database) as snapshot:
            self._clean_up(snapshot)
            wanted = _wanted(snapshot, names)
            parents = find_parents(self._rag.database, self._repository, snapshot, self._key) if incremental else {}
            kind: Kind = "incremental" if any(collection.id in parents for collection in wanted) else "full"
            backup_id = new_id(snapshot.taken_at, kind)
            try:
                self._repository.write(backup_id, STARTED, dump_started(snapshot.system_identifier, started_at))
                entries, left_out = self._write(backup_id, snapshot, wanted, parents)
                manifest = _manifest(self._rag, backup_id, kind, snapshot, started_at, entries)
                self._repository.write(backup_id, MANIFEST, dump(manifest, self._key))
            except BaseException:
                with suppress(RagstoneError):  # else the next backup does it
                    self._repository.remove_backup(backup_id)
                raise
        return _made(manifest, self._repository, left_out, time.monotonic() - started_s)

    def _clean_up(self, snapshot: CorpusSnapshot) -> None:
        """Remove what an earlier backup of this corpus left unfinished: nobody writes to it, since we hold the lock."""
        for backup_id in self._repository.folders():
            with suppress(BackupDamaged):  # whose it is cannot be told: `prune` removes it when it is old
                files = self._repository.files(backup_id)
                if MANIFEST in files or STARTED not in files:
                    continue
                data = self._repository.read_small(backup_id, STARTED, MAX_RECORD_BYTES)
                if parse_started(data, backup_id) == snapshot.system_identifier:
                    self._repository.remove_backup(backup_id)

    def _write(
        self, backup_id: str, snapshot: CorpusSnapshot, wanted: list[CollectionState], parents: dict[int, Parent]
    ) -> tuple[list[CollectionEntry], list[str]]:
        """Write every file of the collections; returns their entries, and the names of those that went away."""
        with reader_pool(self._rag.database, snapshot, self._jobs) as pool:
            planned = [pool.submit(partial(_plan, one, parents.get(one.id))) for one in wanted]
            plans = [plan for plan in (future.result() for future in planned) if plan is not None]
            meter = Meter(self._watch, "writing", sum(piece.rows for plan in plans for piece in plan.pieces), "chunks")
            begun = [(plan, self._begin(pool, backup_id, plan, meter)) for plan in plans]
            written = [(plan, [future.result() for future in futures]) for plan, futures in begun]
        entries = []
        for plan, files in written:
            whole = [file for file in files if file is not None]
            if len(whole) == len(files):
                entries.append(self._entry(backup_id, plan, whole))
            else:  # deleted meanwhile: what was written of it would belong to nothing
                self._repository.remove(backup_id, [file.name for file in whole])
        kept = {entry.name for entry in entries}
        return entries, [one.name for one in wanted if one.name not in kept]

    def _begin(self, pool: ReaderPool, backup_id: str, plan: Plan, meter: Meter) -> list[Future[ShardFile | None]]:
        return [
            pool.submit(partial(self._shard, backup_id=backup_id, plan=plan, piece=piece, meter=meter))
            for piece in plan.pieces
        ]

    def _shard(self, reader: SnapshotReader, *, backup_id: str, plan: Plan, piece: Piece, meter: Meter) -> ShardFile:
        """Write one file of chunks."""
        name = file_name(plan.collection.id, "chunks", piece.number)
        spec = plan.collection.spec
        schema = shards.chunk_schema(spec.dimension, spec.precision)
        with self._repository.writing(backup_id, name) as sink:
            rows = shards.write_chunks(sink, schema, batches(reader, plan.collection, piece))
        if rows != piece.rows:
            raise Conflict(
                f"collection {plan.collection.name!r} shows {rows} chunks where it showed {piece.rows} a moment ago; "
                "its tables or their indexes are damaged"
            )
        meter.add(rows)
        return ShardFile(
            name=name,
            kind="chunks",
            rows=rows,
            size_bytes=sink.size_bytes,
            sha256=sink.sha256,
            first_id=piece.first,
            last_id=piece.last,
        )

    def _entry(self, backup_id: str, plan: Plan, files: list[ShardFile]) -> CollectionEntry:
        files = [*files, self._runs_file(backup_id, plan, "live", plan.live)]
        if plan.parent is not None:
            files.append(self._runs_file(backup_id, plan, "deletes", plan.deletes))
        collection = plan.collection
        return CollectionEntry(
            name=collection.name,
            collection_id=collection.id,
            dimension=collection.spec.dimension,
            metric=collection.spec.metric,
            precision=collection.spec.precision,
            stamp=collection.stamp,
            backend=collection.backend,
            pinned_backend=collection.pinned_backend,
            placement_threshold=collection.placement_threshold,
            recall_target=collection.recall_target,
            prompt=collection.prompt,
            sequence=collection.sequence,
            documents=collection.documents,
            chunks=collection.chunks,
            created_at=collection.created_at,
            parent=None if plan.parent is None else plan.parent.backup_id,
            files=files,
        )

    def _runs_file(self, backup_id: str, plan: Plan, kind: FileKind, runs: Runs) -> ShardFile:
        name = file_name(plan.collection.id, kind)
        data = shards.runs_bytes(runs.first, runs.last)
        with self._repository.writing(backup_id, name) as sink:
            sink.write(data)
        return ShardFile(
            name=name,
            kind=kind,
            rows=len(runs.first),
            size_bytes=sink.size_bytes,
            sha256=sink.sha256,
            first_id=None,
            last_id=None,
        )


def _plan(collection: CollectionState, parent: Parent | None, reader: SnapshotReader) -> Plan:
    return plan_collection(reader, collection, parent)


def _wanted(snapshot: CorpusSnapshot, names: Sequence[str] | None) -> list[CollectionState]:
    if names is None:
        return snapshot.collections
    known = {collection.name: collection for collection in snapshot.collections}
    for name in names:
        if name not in known:
            raise CollectionNotFound(f"there is no collection {name!r}; nothing was backed up")
    return [known[name] for name in dict.fromkeys(names)]


def _manifest(
    rag: Ragstone,
    backup_id: str,
    kind: Kind,
    snapshot: CorpusSnapshot,
    started_at: datetime,
    entries: list[CollectionEntry],
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        id=backup_id,
        kind=kind,
        tool_version=version("ragstone"),
        postgresql_version=snapshot.postgresql_version,
        pgvector_version=snapshot.pgvector_version,
        system_identifier=snapshot.system_identifier,
        timeline=snapshot.timeline,
        started_at=started_at,
        snapshot_at=snapshot.taken_at,
        finished_at=datetime.now(UTC),
        index_settings=_index_settings(rag.settings),
        collections=entries,
    )


def _index_settings(settings: Settings) -> dict[str, int | float | str]:
    """What the indexes were built and searched with, to read up on: a restore uses the settings of where it runs."""
    return {
        "hnsw_m": M,
        "hnsw_ef_construction": EF_CONSTRUCTION,
        "ef_search": settings.ef_search,
        "index_min_chunks": settings.index_min_chunks,
        "placement_threshold": settings.placement_threshold,
        "large_backend": settings.large_backend,
        "recall_target": settings.recall_target,
        "faiss_kind": settings.faiss_kind,
    }


def _made(manifest: Manifest, repository: Repository, left_out: list[str], duration_s: float) -> Backup:
    files = [file for entry in manifest.collections for file in entry.files]
    return Backup(
        id=manifest.id,
        kind=manifest.kind,
        repository=repository.url,
        snapshot_at=manifest.snapshot_at,
        collections=[_backed_up(entry) for entry in manifest.collections],
        left_out=left_out,
        files=len(files),
        size_bytes=sum(file.size_bytes for file in files),
        duration_s=duration_s,
    )


def _backed_up(entry: CollectionEntry) -> BackedUp:
    return BackedUp(
        name=entry.name,
        documents=entry.documents,
        chunks=entry.chunks,
        written=sum(file.rows for file in entry.files if file.kind == "chunks"),
        sequence=entry.sequence,
        parent=entry.parent,
    )


def _record(rag: Ragstone, repository: str, made: Backup | None, problem: str | None, duration_s: float) -> None:
    run = BackupRun(
        kind="create",
        repository=repository,
        backup_id=None if made is None else made.id,
        depth=None,
        ok=made is not None,
        problem=problem,
        chunks=0 if made is None else sum(collection.written for collection in made.collections),
        size_bytes=0 if made is None else made.size_bytes,
        duration_s=duration_s,
    )
    record_run(rag.database, run)
