"""Stands beside the embedded PostgreSQL: starts it, keeps its log short, and stops it when nobody is left.

    guardian.py LOG USERS_LOCK TRANSITION_LOCK SOCKET_FOLDER POSTGRES ARGUMENT...

A program of its own, run without our packages, so that it is small and outlives whoever started it. It is
PostgreSQL's parent: it cannot signal a stranger who was given an old process id, and it ends when PostgreSQL does.
"""

import _thread
import contextlib
import fcntl
import os
import signal
import sys
import time

LOG_LIMIT_BYTES = 4 * 1024 * 1024
LAUNCH_FAILED = 127
REPEAT_S = 1.0


def main(log: str, users_lock: str, transition_lock: str, socket_folder: str, command: list[str]) -> None:
    """Start the command, then stay until it ends; remove the socket's folder, which PostgreSQL leaves empty."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would hold it back from the child, and lose it
    users = os.open(users_lock, os.O_RDWR)
    transition = os.open(transition_lock, os.O_RDWR)
    words, pid = start(command)
    _thread.start_new_thread(stop_when_deserted, (users, transition, pid))
    keep_log(words, log)
    with contextlib.suppress(OSError):  # there is something in it where PostgreSQL was killed
        os.rmdir(socket_folder)
    os.waitpid(pid, 0)
    os._exit(0)


def start(command: list[str]) -> tuple[int, int]:
    """Start the command; return the pipe that it writes its log to, and its process id."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 2)
        try:
            os.execv(command[0], command)  # noqa: S606  # our caller's own
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode(errors="replace"))
        os._exit(LAUNCH_FAILED)
    os.close(writing)
    return reading, pid


def stop_when_deserted(users: int, transition: int, pid: int) -> None:
    """Wait until no user is left, killed or not, and stop PostgreSQL.

    A user takes the same locks in the same order: whoever comes now waits until this process has ended.
    """
    fcntl.flock(users, fcntl.LOCK_EX)
    fcntl.flock(transition, fcntl.LOCK_EX)
    while True:  # a program that only just starts may lose a signal
        os.kill(pid, signal.SIGINT)
        time.sleep(REPEAT_S)


def keep_log(words: int, path: str) -> None:
    """Append what PostgreSQL says to a file until all its processes have ended; keep the newest 4 to 8 MB."""
    log = -1
    while block := os.read(words, 65536):
        # A full disk costs lines of the log; unread words would stop PostgreSQL.
        try:
            if log < 0:
                log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            os.write(log, block)
            if os.fstat(log).st_size > LOG_LIMIT_BYTES:
                os.replace(path, path + ".1")
                os.close(log)
                log = -1
        except OSError:
            continue


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
