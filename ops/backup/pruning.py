"""Removing old backups: never one that another goes on from, and never the only one that is proven."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from backends.errors import BackupDamaged, BackupNotFound, InvalidInput
from ops.backup.chains import Listing, linked, look
from ops.backup.manifest import Manifest, new_id
from ops.backup.repository import Repository

UNFINISHED_KEPT = timedelta(days=1)
"""An incomplete backup may be under way; by then it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed, or would be without `dry_run`: ids, the oldest first.

    `reasons` says of each backup beyond the newest ones why it is kept. `damaged` ones are not removed and not
    counted: whoever put them there, or keeps their key, may still mend them.
    """

    kept: list[str]
    removed: list[str]
    incomplete_removed: list[str]
    freed_bytes: int
    reasons: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, BackupDamaged] = field(default_factory=dict)


def prune(repo: str, *, keep_last: int, dry_run: bool = False, key: str | None = None) -> Pruned:
    """Keep the newest `keep_last` backups and all that they go on from, and remove the others.

    If none of those is proven, the newest proven one stays as well. Only backups whose whole chain is there count.
    Incomplete ones go when they are older than a day. Raises InvalidInput, Unsupported and RepositoryUnavailable.
    """
    if keep_last < 1:
        raise InvalidInput("keep_last", f"found {keep_last}; needed 1 or more: the newest backup always stays")
    repository = Repository.open(repo)
    stock = _Stock(repository, look(repository, key))
    kept = stock.kept(keep_last)
    removed = [backup_id for backup_id in stock.whole if backup_id not in kept]
    if not dry_run:
        for backup_id in [*reversed(removed), *stock.unfinished]:  # children before their parents
            repository.remove_backup(backup_id)
    return Pruned(
        kept=[backup_id for backup_id in stock.whole if backup_id in kept],
        removed=removed,
        incomplete_removed=stock.unfinished,
        freed_bytes=sum(stock.size_bytes[backup_id] for backup_id in [*removed, *stock.unfinished]),
        reasons={backup_id: kept[backup_id] for backup_id in stock.whole if kept.get(backup_id)},
        damaged=dict(sorted(stock.damaged.items())),
    )


class _Stock:
    """What there is: whole backups and unfinished ones, the oldest first, and damaged ones."""

    def __init__(self, repository: Repository, listing: Listing) -> None:
        begun_before = new_id(datetime.now(UTC) - UNFINISHED_KEPT, "full")
        self._manifests = {made.id: made for made in listing.complete}
        self._proven = {backup_id for backup_id, known in listing.verifications.items() if known.is_proven}
        self.damaged = dict(listing.damaged)
        self.size_bytes: dict[str, int] = {}
        self.whole = [made.id for made in listing.complete if self._is_whole(repository, made.id)]
        parents = {entry.parent for made in listing.complete for entry in made.collections}
        self.unfinished = [
            backup_id
            for backup_id in listing.incomplete
            if backup_id < begun_before and backup_id not in parents and self._is_whole(repository, backup_id)
        ]

    def kept(self, keep_last: int) -> dict[str, str]:
        """Return the ids to keep, each with the reason, "" for the newest ones."""
        kept: dict[str, str] = {}
        for backup_id in self.whole[-keep_last:]:  # the oldest of them first: none counts as one's parent only
            self._keep(kept, backup_id, "")
        for backup_id in self.damaged.keys() & self._manifests.keys():
            self._keep(kept, backup_id, "it is damaged")
        proven = [backup_id for backup_id in self.whole if backup_id in self._proven]
        if proven and kept.keys().isdisjoint(proven):
            self._keep(kept, proven[-1], "it is the newest that is proven")
        return kept

    def _keep(self, kept: dict[str, str], backup_id: str, reason: str) -> None:
        """Keep a backup and all that it goes on from, as far as it is there."""
        waiting = [(backup_id, reason)]
        while waiting:
            backup_id, reason = waiting.pop()
            if backup_id in self._manifests and backup_id not in kept:
                kept[backup_id] = reason
                parents = {entry.parent for entry in self._manifests[backup_id].collections if entry.parent}
                waiting += [(parent, f"{backup_id} goes on from it") for parent in parents]

    def _is_whole(self, repository: Repository, backup_id: str) -> bool:
        """Whether a backup can be removed, and, where it is complete, has all that it goes on from."""
        try:
            self.size_bytes[backup_id] = sum(repository.files(backup_id).values())
            if backup_id in self._manifests:
                made = self._manifests[backup_id]
                for entry in made.collections:
                    linked(self._manifest, made, entry)
        except BackupDamaged as error:
            self.damaged[backup_id] = error
        return backup_id not in self.damaged

    def _manifest(self, backup_id: str) -> Manifest:
        if backup_id not in self._manifests:
            raise BackupNotFound(backup_id)
        return self._manifests[backup_id]
