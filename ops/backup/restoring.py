"""Restores collections from a backup: loaded aside, indexed, then switched in one step."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256

from backends.corpus import staging
from backends.corpus.collections import CollectionState, delete_collection, find_collection, list_collections
from backends.corpus.database import errors_mapped
from backends.errors import BackupDamaged, CollectionExists, CollectionNotFound, InvalidInput, NotFound, Unsupported
from ops.backup.chains import at as made_by
from ops.backup.chains import chain, load, look
from ops.backup.indexing import build_index, check_backend
from ops.backup.loading import Chain, LoaderPool, loader_pool
from ops.backup.manifest import CollectionEntry, Manifest
from ops.backup.progress import Watch, nobody
from ops.backup.repository import Repository
from ops.backup.verifying import check_sizes
from retrieval.checking import check_name
from retrieval.library import COLLECTION_TTL_S, Ragstone
from retrieval.placement import DEFAULT_BACKEND

MOST_JOBS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredCollection:
    """One collection that is there again. `source` is its name in the backup."""

    name: str
    source: str
    documents: int
    chunks: int
    sequence: int
    backend: str
    load_s: float
    index_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was restored, from which backup. `replaced` are collections that were there before."""

    backup_id: str
    snapshot_at: datetime
    collections: list[RestoredCollection]
    replaced: list[str]
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """One collection to restore, under which name, into which backend; `asked` is None where its size decides."""

    chain: Chain
    target: str
    backend: str
    asked: str | None


def restore(
    rag: Ragstone,
    repo: str,
    backup_id: str | None = None,
    *,
    collections: Sequence[str] | None = None,
    as_name: str | None = None,
    at: datetime | None = None,
    backend: str | None = None,
    replace: Sequence[str] = (),
    jobs: int = 2,
    watch: Watch = nobody,
) -> Restored:
    """Restore a backup, or some collections of it: the one named, the newest, or the newest one made by `at`.

    Everything is loaded aside, checked against its hashes, indexed (in `backend`, or where the collection belongs),
    and then switched in one step. A collection that is there already is only replaced where `replace` names it.
    Called again after an interruption it goes on. Raises BackupDamaged, naming the file, BackupNotFound,
    CollectionNotFound, CollectionExists, Conflict, and Unavailable; no collection is changed then.
    """
    started_s = time.monotonic()
    _check_arguments(backup_id, at, collections, jobs)
    repository = Repository.open(repo)
    secret = rag.settings.backup_key
    key = None if secret is None else secret.get_secret_value()
    if backup_id is None:
        manifest = made_by(look(repository, key), at, collections or ())
    else:
        manifest = load(repository, backup_id, key)
    orders = [
        _Order(chain=one, target=target, backend=_backend(rag, one.entry, backend), asked=backend)
        for one, target in _targets(_chains(repository, manifest, collections, key), as_name)
    ]
    _check_targets(rag, [order.target for order in orders], replace)
    check_sizes(repository, manifest, key)
    with staging.restore_locks(rag.database, [order.target for order in orders]), errors_mapped():
        _remove_replaced(rag)
        staged: list[_Restoring] = []
        with _cleared_away(rag, staged), loader_pool(rag.database, repository, jobs) as pool:
            staged.extend(_Restoring(rag, order, watch) for order in orders)
            for one in staged:
                one.load(pool)
        for one in staged:
            one.index()
        names = {one.staged.id: one.order.target for one in staged}
        aside = staging.switch(rag.database, names, replace)
        if aside:
            time.sleep(2 * COLLECTION_TTL_S)  # until every process has heard of it
            _remove_replaced(rag)
    return Restored(
        backup_id=manifest.id,
        snapshot_at=manifest.snapshot_at,
        collections=[one.result() for one in staged],
        replaced=list(aside),
        duration_s=time.monotonic() - started_s,
    )


class _Restoring:
    """One collection on its way."""

    def __init__(self, rag: Ragstone, order: _Order, watch: Watch) -> None:
        self.order = order
        self.staged = staging.stage(
            rag.database, order.target, _source(order.chain), DEFAULT_BACKEND, partial(_remove, rag)
        )
        self._rag = rag
        self._watch = watch
        self._load_s = 0.0
        self._index_s = 0.0

    def load(self, pool: LoaderPool) -> None:
        """Load its chunks, and give its tables their keys."""
        started_s = time.monotonic()
        loaded = pool.load(self.order.chain, self.staged, self._watch)
        try:
            staging.complete(self._rag.database, self.staged, loaded)
        except staging.RowsRefused as error:
            problem = f"the same chunk of {self.order.chain.entry.name!r} is in it twice: {error}"
            raise BackupDamaged(self.order.chain.backup_id, problem) from error
        self._load_s = time.monotonic() - started_s

    def index(self) -> None:
        """Build its vector index."""
        started_s = time.monotonic()
        pinned = self.order.asked or self.order.chain.entry.pinned_backend
        build_index(self._rag, self.staged.name, self.order.backend, pinned=pinned, watch=self._watch)
        self._index_s = time.monotonic() - started_s

    def result(self) -> RestoredCollection:
        entry = self.order.chain.entry
        return RestoredCollection(
            name=self.order.target,
            source=entry.name,
            documents=entry.documents,
            chunks=entry.chunks,
            sequence=entry.sequence,
            backend=self.order.backend,
            load_s=self._load_s,
            index_s=self._index_s,
        )


@contextmanager
def _cleared_away(rag: Ragstone, staged: Sequence[_Restoring]) -> Iterator[None]:
    """Remove what was staged where another try would meet the same; after anything else it is gone on with."""
    try:
        yield
    except (BackupDamaged, InvalidInput, Unsupported):
        for one in staged:
            _remove(rag, one.staged.name)
        raise


def _check_arguments(backup_id: str | None, at: datetime | None, collections: Sequence[str] | None, jobs: int) -> None:
    if collections is not None and not collections:
        raise InvalidInput("collections", "found none; needed names, or None for all that the backup has")
    if not 1 <= jobs <= MOST_JOBS:
        raise InvalidInput("--jobs", f"found {jobs}; needed 1 to {MOST_JOBS}")
    if at is not None and backup_id is not None:
        raise InvalidInput("--at", f"found beside backup {backup_id}, which has its time; needed one of the two")
    if at is not None and at.tzinfo is None:
        raise InvalidInput("--at", f"found {at}, a time of no zone; needed one with a zone, for example UTC")


def _chains(repository: Repository, manifest: Manifest, names: Sequence[str] | None, key: str | None) -> list[Chain]:
    known = {entry.name: entry for entry in manifest.collections}
    for name in names or ():
        if name not in known:
            raise CollectionNotFound(f"backup {manifest.id} has no collection {name!r}; it has {', '.join(known)}")
    entries = [known[name] for name in dict.fromkeys(names)] if names else manifest.collections
    return [_chain(repository, manifest, entry, key) for entry in entries]


def _chain(repository: Repository, manifest: Manifest, entry: CollectionEntry, key: str | None) -> Chain:
    links = chain(repository, manifest, entry, key)
    files = [(backup_id, file) for backup_id, link in links for file in link.of_kind("chunks")]
    return Chain(backup_id=manifest.id, entry=entry, files=files)


def _targets(chains: list[Chain], as_name: str | None) -> list[tuple[Chain, str]]:
    if as_name is None:
        return [(one, one.entry.name) for one in chains]
    if len(chains) != 1:
        raise InvalidInput("--as", f"found {len(chains)} collections to restore; needed one: name it with --collection")
    return [(chains[0], check_name(as_name))]


def _check_targets(rag: Ragstone, targets: Sequence[str], replace: Sequence[str]) -> None:
    """Refuse before anything is loaded what would be refused in the end."""
    for name in replace:
        if name not in targets:
            raise InvalidInput(
                "--replace", f"found {name!r}, which is not restored; needed one of {', '.join(targets)}"
            )
    there = [name for name in list_collections(rag.database) if name in targets and name not in replace]
    if there:
        raise CollectionExists(
            f"{', '.join(there)}: there already, and left as it is; restore one --collection --as another name, "
            f"or add {' '.join(f'--replace {name}' for name in there)}"
        )


def _backend(rag: Ragstone, entry: CollectionEntry, asked: str | None) -> str:
    """Where a collection goes, told before anything of it is there."""
    expected = CollectionState(
        id=0,
        name=entry.name,
        spec=entry.spec,
        stamp=entry.stamp,
        sequence=entry.sequence,
        documents=entry.documents,
        chunks=entry.chunks,
        backend=DEFAULT_BACKEND,
        index_id=0,
        created_at=entry.created_at,
        placement_threshold=entry.placement_threshold,
        pinned_backend=entry.pinned_backend,
    )
    return check_backend(rag, expected, asked)


def _source(chain_: Chain) -> staging.Source:
    entry = chain_.entry
    content = entry.model_dump_json().encode()
    return staging.Source(
        backup_id=chain_.backup_id,
        checksum=sha256(chain_.backup_id.encode() + b"\0" + content).hexdigest(),
        spec=entry.spec,
        stamp=entry.stamp,
        sequence=entry.sequence,
        placement_threshold=entry.placement_threshold,
        recall_target=entry.recall_target,
        prompt=entry.prompt,
        pinned_backend=entry.pinned_backend,
    )


def _remove_replaced(rag: Ragstone) -> None:
    """Remove what stepped aside: now, or in a restore that was killed right after its switch."""
    for name in staging.replaced_collections(rag.database):
        _remove(rag, name)


def _remove(rag: Ragstone, name: str) -> None:
    """Remove a collection that no user can name, with its indexes outside the corpus."""
    with suppress(NotFound):  # another process did it
        rag.indexes.remove_all(find_collection(rag.database, name))
        delete_collection(rag.database, name)
