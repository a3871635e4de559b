"""Who PostgreSQL's processes run as: whoever we are, unless PostgreSQL refuses that.

It refuses root. Root's server runs as the owner of the data where that is somebody else. For data of root's own it
enters a user namespace, in which it has another number while its files stay root's; where that is not allowed (as
in most containers) it runs as an unprivileged account, to which PostgreSQL's files then belong. It also makes no
new corpus for a number without a name, as containers have them, for which a namespace helps too. Parent folders are
never opened to anybody.
"""

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass, replace
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
    uid_inside: int | None = None
    """The number in a user namespace; None where the program needs none."""

    def command(self, data: DataFolder, *command: str | Path) -> list[str]:
        """Return the command line that runs a command as this account."""
        words = [os.fspath(word) for word in command]
        if self.uid_inside is not None:
            become = f"namespace:{self.uid_inside}"
        elif self.uid != os.geteuid():
            become = f"{self.uid}:{self.gid}"
        else:
            return words
        return [sys.executable, "-I", "-S", launch.__file__, become, str(data.path), *words]

    def own(self, path: Path) -> None:
        """Give a file or folder that we made to the account."""
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def choose_account(data: DataFolder) -> Account:
    """Return whom PostgreSQL is to run as on this folder.

    Raises InvalidSettings where that account cannot reach the folder or the programs.
    """
    ourselves = Account(os.geteuid(), os.getegid())
    if ourselves.uid == 0:
        return _for_root(data)
    if data.postgres.exists() or _has_name(ourselves.uid):
        return ourselves
    inside = in_namespace(ourselves)
    if inside is None or not _can_become(inside, data):
        raise InvalidSettings(
            "data",
            f"user {ourselves.uid} has no name on this system, and PostgreSQL makes no new corpus for such a one; "
            "give it a line in /etc/passwd, or a postgresql:// URL",
        )
    return inside


def in_namespace(account: Account) -> Account | None:
    """Return this account in a user namespace, with the number of some named account; None where there is none."""
    named = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0}
    numbers = [named[name] for name in reversed(UNPRIVILEGED) if name in named] or list(named.values())
    return replace(account, uid_inside=numbers[0]) if numbers else None


def _for_root(data: DataFolder) -> Account:
    owner = (data.postgres if data.postgres.exists() else data.path).stat()
    if owner.st_uid == 0:
        inside = in_namespace(Account(0, os.getegid()))
        if inside and _can_become(inside, data):
            return inside
    account = _unprivileged() if owner.st_uid == 0 else Account(owner.st_uid, owner.st_gid)
    if not _can_become(account, data):
        raise InvalidSettings("data", f"PostgreSQL refuses to run as root, and cannot become {account.uid}; {_FIX}")
    _let_in(data, account)
    return account


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


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
            f"{data.path} cannot be reached: PostgreSQL cannot run as root here, and user {account.uid}, as whom it "
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
