"""Becomes somebody whom PostgreSQL does not refuse, as it does root, and then the program.

    launch.py namespace:UID|UID:GID FOLDER PROGRAM ARGUMENT...

A program of its own: a process with threads may not enter a user namespace, nor safely run Python between fork
and exec. FOLDER is the data folder; that its parents can be entered is tried here, as the new account.
"""

import ctypes
import os
import sys

CLONE_NEWUSER = 0x10000000

REFUSED = 77
SHUT_FOLDER = 78
SHUT_PROGRAM = 79


def main(account: str, folder: str, command: list[str]) -> None:
    """Become the account, and the command; each thing that can be in the way has an exit status of its own."""
    try:
        first, _, second = account.partition(":")
        enter_namespace(second) if first == "namespace" else become(int(first), int(second))
    except OSError as error:
        leave(REFUSED, str(error))
    shut = first_shut_parent(folder)
    if shut:
        leave(SHUT_FOLDER, shut)
    try:
        os.execv(command[0], command)  # noqa: S606  # our caller's own
    except OSError:
        leave(SHUT_PROGRAM, command[0])


def enter_namespace(uid_inside: str) -> None:
    """Enter a user namespace in which we have another number; outside, we and our files stay as we are."""
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{uid_inside} {uid} 1")
    write("/proc/self/gid_map", f"{uid_inside} {gid} 1")


def become(uid: int, gid: int) -> None:
    """Become another account, of no further groups."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def first_shut_parent(folder: str) -> str:
    """Return the outermost parent of the folder that we may not enter, or nothing."""
    parents = []
    while folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
        parents.append(folder)
    return next((parent for parent in reversed(parents) if not os.access(parent, os.X_OK)), "")


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def leave(status: int, word: str) -> None:
    os.write(2, os.fsencode(word))
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
