"""The backups of a repository: which are complete, which is the newest, and what each goes on from."""

import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from backends.errors import BackupDamaged, BackupNotFound
from ops.backup import records
from ops.backup.manifest import MANIFEST, VERIFIED, CollectionEntry, Manifest, is_id, new_id, parse
from ops.backup.records import MAX_RECORD_BYTES, Verifications
from ops.backup.repository import FileMissing, Repository
from ops.backup.sealing import MAX_SEALED_BYTES
from retrieval.checking import shown

READERS = 8
"""A store that is far away answers several as soon as one."""

Link = tuple[str, CollectionEntry]
"""A backup's id, and its entry of the collection in question."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a repository holds. `complete` are the oldest first; `damaged` ones have a manifest that cannot be trusted.

    `verifications` are by id, of those that were ever verified.
    """

    repository: str
    complete: list[Manifest] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    damaged: dict[str, BackupDamaged] = field(default_factory=dict)
    verifications: dict[str, Verifications] = field(default_factory=dict)


def list_backups(repo: str, *, key: str | None = None) -> Listing:
    """Return what there is in a repository; raises InvalidInput, Unsupported and RepositoryUnavailable."""
    return look(Repository.open(repo), key)


def look(repository: Repository, key: str | None) -> Listing:
    """Return what there is in an opened repository. Shards are not looked at."""
    listing = Listing(repository=repository.url)
    ids = repository.folders()
    with ThreadPoolExecutor(READERS, thread_name_prefix="ragstone-backups") as readers:
        for backup_id, found in zip(ids, readers.map(lambda id_: _found(repository, id_, key), ids), strict=True):
            match found:
                case Manifest():
                    listing.complete.append(found)
                case BackupDamaged():
                    listing.damaged[backup_id] = found
                case None:
                    listing.incomplete.append(backup_id)
        complete = [manifest.id for manifest in listing.complete]
        remembered = readers.map(lambda id_: verifications(repository, id_, key), complete)
        listing.verifications.update({id_: one for id_, one in zip(complete, remembered, strict=True) if one})
    return listing


def load(repository: Repository, backup_id: str, key: str | None) -> Manifest:
    """Return a backup's manifest; raises BackupNotFound where it is not there or not complete, and BackupDamaged."""
    if not is_id(backup_id):
        raise BackupNotFound(f"{shown(backup_id)} is no backup's id; `ragstone backup list` shows them")
    try:
        return parse(repository.read_small(backup_id, MANIFEST, MAX_SEALED_BYTES), backup_id, key)
    except FileMissing as error:
        raise BackupNotFound(
            f"there is no complete backup {backup_id} in {repository.url}; `ragstone backup list` shows them"
        ) from error


def verifications(repository: Repository, backup_id: str, key: str | None) -> Verifications | None:
    """Return what is remembered of a backup's verifications; None where there is nothing, or nothing to trust."""
    try:
        return records.parse(repository.read_small(backup_id, VERIFIED, MAX_RECORD_BYTES), backup_id, key)
    except FileMissing:
        return None
    except BackupDamaged as error:
        log.warning("what was remembered of this backup's verifications counts for nothing: %s", error)
        return None


def newest(listing: Listing) -> Manifest:
    """Return the newest backup; raises BackupNotFound where there is none, and BackupDamaged where it is damaged.

    An older one in the place of a damaged one would be old data without a word: it can be had by its id.
    """
    return at(listing, None)


def at(listing: Listing, time: datetime | None, collections: Collection[str] = ()) -> Manifest:
    """Return the newest backup that is not newer than `time` and holds these collections; None for any time.

    Raises BackupNotFound where there is none, and BackupDamaged where a newer one might be it but is damaged.
    """
    asked = set(collections)
    fitting = [
        made
        for made in listing.complete
        if (time is None or made.snapshot_at <= time) and asked <= {entry.name for entry in made.collections}
    ]
    found = fitting[-1] if fitting else None
    for backup_id, damage in reversed(listing.damaged.items()):
        if (found is None or backup_id > found.id) and (
            time is None or _moment(backup_id) <= _moment(new_id(time, "full"))
        ):
            raise damage
    if found is None:
        raise BackupNotFound(f"there is no complete backup{_asked(time, asked)} in {listing.repository}")
    return found


def chain(repository: Repository, manifest: Manifest, entry: CollectionEntry, key: str | None) -> list[Link]:
    """Return the backups that an entry needs, from the one that is complete in itself to its own.

    Raises BackupDamaged where one of them is missing or damaged, or cannot be what the next one goes on from.
    """
    return linked(lambda backup_id: load(repository, backup_id, key), manifest, entry)


def linked(load_one: Callable[[str], Manifest], manifest: Manifest, entry: CollectionEntry) -> list[Link]:
    """Do what `chain` does, with manifests from `load_one`."""
    links = [(manifest.id, entry)]
    while entry.parent is not None:
        manifest, entry = _parent(load_one, manifest, entry, entry.parent)
        links.append((manifest.id, entry))
    return links[::-1]


def _parent(
    load_one: Callable[[str], Manifest], child: Manifest, entry: CollectionEntry, parent_id: str
) -> tuple[Manifest, CollectionEntry]:
    """Each step goes to an older backup, so that no circle is possible."""
    try:
        parent = load_one(parent_id)
    except BackupNotFound as error:
        raise BackupDamaged(f"{parent_id}/{MANIFEST}", f"it is missing; {child.id} goes on from it") from error
    found = parent.entry(entry.collection_id)
    if found is None:
        raise _unfit(child, entry, f"which has no collection {entry.collection_id}")
    if parent.snapshot_at >= child.snapshot_at or found.sequence > entry.sequence:
        raise _unfit(child, entry, "which is not older")
    if (parent.system_identifier, parent.timeline) != (child.system_identifier, child.timeline):
        raise _unfit(child, entry, "which is of another corpus")
    if found.spec != entry.spec:
        raise _unfit(child, entry, f"which has {found.spec}; needed {entry.spec}")
    return parent, found


def _unfit(child: Manifest, entry: CollectionEntry, why: str) -> BackupDamaged:
    return BackupDamaged(f"{child.id}/{MANIFEST}", f"collection {entry.name!r} goes on from {entry.parent}, {why}")


def _found(repository: Repository, backup_id: str, key: str | None) -> Manifest | BackupDamaged | None:
    try:
        return load(repository, backup_id, key)
    except BackupNotFound:
        return None
    except BackupDamaged as error:
        return error


def _moment(backup_id: str) -> str:
    return backup_id.partition("-")[0]


def _asked(time: datetime | None, collections: set[str]) -> str:
    until = "" if time is None else f" from {time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC or before"
    return until + (f" with {', '.join(sorted(collections))}" if collections else "")
