"""The running PostgreSQL of a data folder: what it says of itself, whether it lives, how it is told to stop."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from backends.corpus.data_folder import DataFolder

ASK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What PostgreSQL's main process wrote into its `postmaster.pid`; it may be long dead."""

    pid: int
    socket_folder: Path
    is_ready: bool


def read_postmaster(data: DataFolder) -> Postmaster | None:
    """Return what the file says, None where there is none or it is not written to its end."""
    try:
        lines = _pid_file(data).read_bytes().splitlines()
        return Postmaster(int(lines[0]), Path(os.fsdecode(lines[4])), lines[7].strip() == b"ready")
    except (FileNotFoundError, IndexError, ValueError):
        return None


def forget_postmaster(data: DataFolder) -> None:
    """Remove what a dead server left: PostgreSQL would not start where its process id is another program's now."""
    _pid_file(data).unlink(missing_ok=True)


def running_postmaster(data: DataFolder) -> int | None:
    """Return the id of the process in the file, None where it is dead or another program by now."""
    try:
        pid = int(_pid_file(data).read_bytes().split(maxsplit=1)[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    return pid if _works_in(pid, data.postgres) else None


def order_stop(pid: int) -> None:
    """Tell PostgreSQL to break off its clients, write everything to disk and end."""
    os.kill(pid, signal.SIGINT)


def _pid_file(data: DataFolder) -> Path:
    return data.postgres / "postmaster.pid"


def _works_in(pid: int, folder: Path) -> bool:
    """Say whether this process is a PostgreSQL on this folder, in which its main process works."""
    if sys.platform != "linux":
        command = ["/bin/ps", "-o", "command=", "-p", str(pid)]
        asked = subprocess.run(command, capture_output=True, check=False, timeout=ASK_TIMEOUT_S)  # noqa: S603  # ours
        return b"postgres" in asked.stdout and os.fsencode(folder) in asked.stdout
    process = Path("/proc", str(pid))
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it is dead
        try:
            return os.readlink(process / "cwd") == os.fspath(folder)
        except PermissionError:  # of another account's process, a container's root sees no more than this
            return os.fsencode(folder) in (process / "cmdline").read_bytes().split(b"\0")
    return False
