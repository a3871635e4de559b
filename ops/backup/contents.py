"""What the files of a backup hold, read and checked against their manifest."""

import hashlib
import hmac

import numpy as np

from backends.errors import BackupDamaged
from ops.backup.chains import Link
from ops.backup.manifest import CollectionEntry, FileKind, ShardFile
from ops.backup.repository import Repository
from ops.backup.runs import Runs
from ops.backup.shards import read_chunks, read_runs


def read_file(repository: Repository, backup_id: str, file: ShardFile) -> bytes:
    """Return a file's bytes; raises BackupDamaged unless they have the size and the SHA-256 of the manifest."""
    data = repository.read(backup_id, file.name, file.size_bytes)
    found = hashlib.sha256(data).hexdigest()
    if not hmac.compare_digest(found, file.sha256):
        raise BackupDamaged(f"{backup_id}/{file.name}", f"found SHA-256 {found}; needed {file.sha256}")
    return data


def ids_in(repository: Repository, backup_id: str, entry: CollectionEntry, file: ShardFile) -> Runs:
    """Return the ids that a file holds, every row of it checked; raises BackupDamaged."""
    where = f"{backup_id}/{file.name}"
    data = read_file(repository, backup_id, file)
    if file.kind != "chunks":
        return Runs(*read_runs(data, file, where))
    batches = read_chunks(data, file, where, entry.dimension, entry.precision)
    return Runs.from_ids(np.concatenate([batch.column("id").to_numpy() for batch in batches]))


def live_runs(repository: Repository, backup_id: str, entry: CollectionEntry) -> Runs:
    """Return the ids that were alive in an entry's collection; raises BackupDamaged."""
    [file] = entry.of_kind("live")
    live = ids_in(repository, backup_id, entry, file)
    check_count(backup_id, entry, live)
    return live


def check_count(backup_id: str, entry: CollectionEntry, live: Runs) -> None:
    """Raise BackupDamaged unless as many chunks are alive as the manifest says."""
    if live.count != entry.chunks:
        raise _wrong(backup_id, entry, "live", f"found {live.count} ids; needed {entry.chunks}, as the manifest says")


def check_step(link: Link, before: Runs | None, live: Runs, deletes: Runs, own: Runs) -> None:
    """Raise BackupDamaged unless an entry's files add up: live = (before - deletes) + own, and nothing twice.

    `before` are the ids that were alive in the backup that it goes on from, None where it is complete in itself.
    """
    backup_id, entry = link
    known = Runs.empty() if before is None else before
    if deletes.difference(known).count:
        raise _wrong(backup_id, entry, "deletes", f"found ids that were not alive in {entry.parent}")
    if own.difference(known).count != own.count:
        raise _wrong(backup_id, entry, "live", f"found ids of {entry.parent} among its own new chunks")
    if known.difference(deletes).union(own) != live:
        raise _wrong(backup_id, entry, "live", "its ids are not those of its parent without the deleted, and its own")


def _wrong(backup_id: str, entry: CollectionEntry, kind: FileKind, problem: str) -> BackupDamaged:
    [file] = entry.of_kind(kind) or entry.of_kind("live")
    return BackupDamaged(f"{backup_id}/{file.name}", problem)
