"""What an incremental backup is based on: of each collection, the newest backup that this corpus made of it."""

from dataclasses import dataclass

from backends.corpus.backups import known_backups
from backends.corpus.database import Database
from backends.corpus.exporting import CorpusSnapshot
from backends.errors import BackupDamaged
from ops.backup.chains import chain, list_complete
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

    The corpus must remember to have made it: one that was rewound to before a backup has given ids of that backup
    to other chunks since.
    """
    mine = [made for made in list_complete(repository, key) if _is_of(made, snapshot)]
    remembered = known_backups(database, [made.id for made in mine])
    found: dict[int, Parent] = {}
    for made in reversed([made for made in mine if made.id in remembered]):  # the newest first
        for entry in made.collections:
            if entry.collection_id not in found and (parent := _parent(repository, made, entry, key)) is not None:
                found[entry.collection_id] = parent
    return found


def _is_of(manifest: Manifest, snapshot: CorpusSnapshot) -> bool:
    return (manifest.system_identifier, manifest.timeline) == (snapshot.system_identifier, snapshot.timeline)


def _parent(repository: Repository, manifest: Manifest, entry: CollectionEntry, key: str | None) -> Parent | None:
    try:
        chain(repository, manifest, entry, key)
        live = live_runs(repository, manifest.id, entry)
    except BackupDamaged:
        return None
    return Parent(backup_id=manifest.id, sequence=entry.sequence, live=live)
