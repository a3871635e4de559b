"""Who PostgreSQL's processes run as: whoever we are, unless that is root, whom PostgreSQL refuses.

Root's server runs as the owner of the data where that is somebody else. For data of root's own it enters a user
namespace, in which it is not root while its files stay root's; where that is not allowed (as in most containers)
it runs as an unprivileged account, to which PostgreSQL's files then belong. Parent folders are never opened.
"""

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from backends.corpus import launch
from backends.corpus.binaries import environment, program
from backends.corpus.data_folder import DataFolder
from backends.errors import InvalidSettings

UNPRIVILEGED = ("postgres", "nobody")
PROBE_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Account:
    """Who a program runs as: `uid` and `gid` as the file system sees them."""

    uid: int
    gid: int
    in_namespace: bool = False

    def command(self, data: DataFolder, *command: str | Path) -> list[str]:
        """Return the command line that runs a command as this account."""
        words = [os.fspath(word) for word in command]
        if not self.in_namespace and self.uid == os.geteuid():
            return words
        name = "namespace" if self.in_namespace else f"{self.uid}:{self.gid}"
        return [sys.executable, "-I", "-S", launch.__file__, name, str(data.path), *words]

    def own(self, path: Path) -> None:
        """Give a file or folder that we made to the account."""
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def choose_account(data: DataFolder) -> Account:
    """Return whom PostgreSQL is to run as on this folder.

    Raises InvalidSettings where that account cannot reach the folder or the programs.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    owner = (data.postgres if data.postgres.exists() else data.path).stat()
    if owner.st_uid == 0:
        ourselves = Account(0, os.getegid(), in_namespace=True)
        if _can_become(ourselves, data):
            return ourselves
    account = _unprivileged() if owner.st_uid == 0 else Account(owner.st_uid, owner.st_gid)
    if not _can_become(account, data):
        raise InvalidSettings("data", f"PostgreSQL refuses to run as root, and cannot become {account.uid}; {_FIX}")
    _let_in(data, account)
    return account


_FIX = "run Ragstone as an ordinary user, or give a postgresql:// URL"


def _can_become(account: Account, data: DataFolder) -> bool:
    """Start a program of PostgreSQL's as this account; say whether the system allows that.

    Raises InvalidSettings where it does, but the account cannot reach the data or the program.
    """
    command = account.command(data, program("initdb"), "--version")
    tried = subprocess.run(  # noqa: S603  # ours
        command, env=environment(), capture_output=True, timeout=PROBE_TIMEOUT_S, check=False
    )
    word = os.fsdecode(tried.stderr)
    if tried.returncode == launch.SHUT_FOLDER:
        raise InvalidSettings(
            "data",
            f"{data.path} cannot be reached: PostgreSQL refuses to run as root, and user {account.uid}, as whom it "
            f"would run, may not enter {word}; put the data where every parent folder can be entered, or {_FIX}",
        )
    if tried.returncode == launch.SHUT_PROGRAM:
        raise InvalidSettings(
            "data",
            f"PostgreSQL refuses to run as root, and user {account.uid}, as whom it would run, may not run {word}; "
            f"install Ragstone where every parent folder can be entered, or {_FIX}",
        )
    return tried.returncode == 0


def _unprivileged() -> Account:
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    wanted = " nor ".join(UNPRIVILEGED)
    raise InvalidSettings("data", f"PostgreSQL refuses to run as root, and there is no account {wanted}; {_FIX}")


def _let_in(data: DataFolder, account: Account) -> None:
    """Let the account pass through the data folder, and own PostgreSQL's files in it."""
    if data.path.stat().st_uid == 0:
        os.chown(data.path, -1, account.gid)
        data.path.chmod(0o710)
    if data.postgres.exists() and data.postgres.stat().st_uid != account.uid:
        for folder, _, names in os.walk(data.postgres, topdown=False):
            for path in [Path(folder, name) for name in names] + [Path(folder)]:
                account.own(path)
