"""The folder of PostgreSQL's socket: short, private, and never the data folder, whose path may be too long.

It lies in the temporary folder, not in XDG_RUNTIME_DIR, which is deleted under a server when its user logs out.
"""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from backends.corpus.account import Account
from backends.corpus.data_folder import DataFolder

PORT = 5432
FALLBACK = "/tmp"  # noqa: S108  # what is made in it is checked
SOCKET_NAME = f".s.PGSQL.{PORT}"

_PATH_LIMIT_BYTES = 103  # the least of the systems' limits, macOS's


def make_socket_folder(data: DataFolder, account: Account) -> Path:
    """Return an empty folder that only the account may enter (and root).

    Its name stays the same from start to start, so that connections can be made again after a crash, unless
    somebody else has taken that name: then it is a new one. For when no server of this data folder is alive.
    """
    place = data.path.stat()
    identity = os.fsencode(f"{place.st_dev}:{place.st_ino}:{data.path}")
    parent = _parent(account)
    folder = parent / f"ragstone-{hashlib.sha256(identity).hexdigest()[:16]}"
    try:
        folder.mkdir(mode=0o700)
        account.own(folder)
    except FileExistsError:
        if not _is_private(folder, account.uid):
            folder = Path(tempfile.mkdtemp(prefix="ragstone-", dir=parent))
            account.own(folder)
    for left in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):  # by a server that was killed
        (folder / left).unlink(missing_ok=True)
    return folder


def _parent(account: Account) -> Path:
    """Return a temporary folder that leaves room for the socket's name, and that libpq does not take for a list."""
    usual = os.path.realpath(tempfile.gettempdir())
    longest = Path(usual, "ragstone-0123456789abcdef", f"{SOCKET_NAME}.lock")
    is_short = len(os.fsencode(longest)) <= _PATH_LIMIT_BYTES
    is_plain = not any(letter in usual for letter in ",\"'") and usual.isprintable()
    is_reachable = account.uid == os.geteuid()
    return Path(usual if is_short and is_plain and is_reachable else FALLBACK)


def _is_private(folder: Path, uid: int) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and found.st_mode & 0o077 == 0
