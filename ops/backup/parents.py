"""What an incremental backup is based on: of each collection, the newest backup that this corpus made of it."""

from contextlib import suppress
from dataclasses import dataclass

from backends.corpus.backups import known_backups
from backends.corpus.database import Database
from backends.corpus.exporting import CorpusSnapshot
from backends.errors import BackupDamaged
from ops.backup.chains import Listing, chain, look
from ops.backup.contents import live_runs
from ops.backup.manifest import CollectionEntry, Manifest
from ops.backup.repository import Repository
from ops.backup.runs import Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A collection in an earlier backup: its number then, and the ids that were alive."""

    backup_id: str
    sequence: int
    live: Runs


def find_parents(
    database: Database, repository: Repository, snapshot: CorpusSnapshot, key: str | None
) -> dict[int, Parent]:
    """Return a parent for each collection id that has one; a damaged one is passed over for an older one.

    So is one that goes on from a backup that a verification found wrong. The corpus must remember to have made it: one
    that was rewound to before a backup has given ids of that backup to other chunks since.
    """
    listing = look(repository, key)
    doubtful = _doubtful(repository, listing, key)
    mine = [made for made in listing.complete if _is_of(made, snapshot)]
    remembered = known_backups(database, [made.id for made in mine])
    found: dict[int, Parent] = {}
    for made in reversed([made for made in mine if made.id in remembered]):  # the newest first
        for entry in made.collections:
            if entry.collection_id not in found:
                parent = _parent(repository, made, entry, key, doubtful)
                found |= {} if parent is None else {entry.collection_id: parent}
    return found


def _doubtful(repository: Repository, listing: Listing, key: str | None) -> set[str]:
    """Return the backups that a verification found wrong, or some that it went on from: which one, it does not say.

    What was proven by itself since is not among them.
    """
    doubtful: set[str] = set()
    for made in listing.complete:
        known = listing.verifications.get(made.id)
        if known is not None and known.failed is not None and not known.is_proven:
            doubtful |= {made.id} | _members(repository, made, key)
    return {one for one in doubtful if one not in listing.verifications or not listing.verifications[one].is_proven}


def _members(repository: Repository, manifest: Manifest, key: str | None) -> set[str]:
    members: set[str] = set()
    for entry in manifest.collections:
        with suppress(BackupDamaged):
            members |= {backup_id for backup_id, _ in chain(repository, manifest, entry, key)}
    return members


def _is_of(manifest: Manifest, snapshot: CorpusSnapshot) -> bool:
    if manifest.snapshot_at >= snapshot.taken_at:  # the clock was set back: no chain goes to a later time
        return False
    return (manifest.system_identifier, manifest.timeline) == (snapshot.system_identifier, snapshot.timeline)


def _parent(
    repository: Repository, manifest: Manifest, entry: CollectionEntry, key: str | None, doubtful: set[str]
) -> Parent | None:
    try:
        if any(backup_id in doubtful for backup_id, _ in chain(repository, manifest, entry, key)):
            return None
        live = live_runs(repository, manifest.id, entry)
    except BackupDamaged:
        return None
    return Parent(backup_id=manifest.id, sequence=entry.sequence, live=live)
