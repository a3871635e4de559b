"""Backups that are proven by restoring: of the corpus, to a folder, S3 or Google Cloud Storage.

from ops import backup

with retrieval.open("./data") as rag:
    backup.create(rag, "/backups", incremental=True)
assert backup.verify("/backups", depth="drill").ok
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ops.backup.chains import Listing, list_backups
    from ops.backup.creating import BackedUp, Backup, create
    from ops.backup.progress import Progress, Watch
    from ops.backup.pruning import Pruned, prune
    from ops.backup.records import Depth
    from ops.backup.restoring import Restored, RestoredCollection, restore
    from ops.backup.verifying import Verification, verify

_HOME = {
    "BackedUp": "creating",
    "Backup": "creating",
    "Depth": "records",
    "Listing": "chains",
    "Progress": "progress",
    "Pruned": "pruning",
    "Restored": "restoring",
    "RestoredCollection": "restoring",
    "Verification": "verifying",
    "Watch": "progress",
    "create": "creating",
    "list_backups": "chains",
    "prune": "pruning",
    "restore": "restoring",
    "verify": "verifying",
}

__all__ = [
    "BackedUp",
    "Backup",
    "Depth",
    "Listing",
    "Progress",
    "Pruned",
    "Restored",
    "RestoredCollection",
    "Verification",
    "Watch",
    "create",
    "list_backups",
    "prune",
    "restore",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import on first use: Arrow and the drivers of object stores are for those who back up."""
    if name not in __all__:
        raise AttributeError(f"module 'ops.backup' has no attribute {name!r}")
    return getattr(import_module(f"ops.backup.{_HOME[name]}"), name)
