"""The embedded PostgreSQL: the first who opens a folder starts it, others join, the last one out stops it.

Nothing is kept that a killed process could leave wrong. Who uses the server, who is starting or stopping it and
whether it runs are three file locks (see DataFolder), which the system gives back when their holders end. Where
the last users are killed, the guardian (guardian.py) stops the server soon afterwards.
"""

import contextlib
import logging
import os
import threading
from pathlib import Path
from urllib.parse import quote

from backends.corpus.account import choose_account
from backends.corpus.data_folder import DataFolder, prepared, unusable
from backends.corpus.initialising import USER, initialise
from backends.corpus.locks import FileLock, Say, is_held, wait_until
from backends.corpus.postmaster import forget_postmaster, order_stop, read_postmaster, running_postmaster
from backends.corpus.socket_folder import PORT, SOCKET_NAME
from backends.corpus.starting import reap_guardian, start_guarded
from backends.errors import CorpusUnavailable

log = logging.getLogger(__name__)

STOPPING = "stopping"


class EmbeddedServer:
    """One use of a running server. `url` is for psycopg; any thread may detach."""

    def __init__(self, data: DataFolder, users: FileLock, socket_folder: Path, say: Say) -> None:
        self.url = f"postgresql://{USER}@/postgres?host={quote(str(socket_folder), safe='')}&port={PORT}"
        self._data = data
        self._users = users
        self._say = say
        self._pid = os.getpid()
        self._detaching = threading.Lock()
        self._is_attached = True

    def detach(self) -> None:
        """Give up this use; the last one out stops the server and returns when it has stopped.

        Calling it again does nothing, nor does calling it in a forked child, which did not attach.
        """
        if os.getpid() != self._pid:
            return
        with self._detaching:
            if self._is_attached:
                self._is_attached = False
                _leave(self._data, self._users, self._say)


def attach(folder: Path, say: Say = log.info) -> EmbeddedServer:
    """Join the server of this folder, or start it; a folder that is missing or empty gets a new corpus.

    `say` hears what is being waited for where it takes long. Raises InvalidSettings for a folder that cannot be
    used, and CorpusUnavailable where PostgreSQL does not start, with what it said.
    """
    data = prepared(folder)
    try:
        return _enter(data, say)
    except OSError as error:
        raise unusable(data.path, error) from error


def _enter(data: DataFolder, say: Say) -> EmbeddedServer:
    users = FileLock(data.users, survives_fork=True)
    try:
        wait_until(users.try_shared, f"the PostgreSQL in {data.path} to stop", say)
        with FileLock(data.transition) as transition:
            _take(transition, data, say)
            socket_folder = _when_ready(data, say) or _start(data, say)
    except BaseException:
        users.close()
        raise
    return EmbeddedServer(data, users, socket_folder, say)


def _leave(data: DataFolder, users: FileLock, say: Say) -> None:
    try:
        with FileLock(data.transition) as transition:
            _take(transition, data, say)
            users.close()
            with FileLock(data.users) as others:
                # The guardian waits to have this lock alone: where it has it, no user is left either.
                if others.try_exclusive() or not others.try_shared():
                    _stop(data, say)
    except FileNotFoundError:
        log.warning("%s was deleted while its corpus was open", data.path)
    finally:
        users.close()


def _take(transition: FileLock, data: DataFolder, say: Say) -> None:
    wait_until(transition.try_exclusive, f"others who start or stop the PostgreSQL in {data.path}", say)


def _when_ready(data: DataFolder, say: Say) -> Path | None:
    """Wait until a server that was started can be used; return its socket's folder, None where no server is left."""
    if is_held(data.server) and data.server.read_text() == STOPPING:
        _stop(data, say)  # whoever began with it was killed
    words = f"the PostgreSQL in {data.path} to get ready; after a crash it repairs its files first"
    wait_until(lambda: not is_held(data.server) or _can_be_joined(data), words, say)
    server = read_postmaster(data)
    return server.socket_folder if server and is_held(data.server) else None


def _can_be_joined(data: DataFolder) -> bool:
    server = read_postmaster(data)
    if server is None or not server.is_ready:
        return False
    if not (server.socket_folder / SOCKET_NAME).exists():
        raise CorpusUnavailable(
            f"the PostgreSQL in {data.path} listens in {server.socket_folder}, which this process does not see: it "
            "belongs to another container or has a /tmp of its own; close the corpus there first, or share the /tmp"
        )
    return running_postmaster(data) is not None  # killed, it leaves others behind, who take a moment to notice


def _start(data: DataFolder, say: Say) -> Path:
    stranger = running_postmaster(data)
    if stranger is not None:
        raise CorpusUnavailable(
            f"process {stranger} is a PostgreSQL that somebody else started on {data.postgres}; stop it, and try again"
        )
    account = choose_account(data)
    with FileLock(data.server) as lock:
        wait_until(lock.try_exclusive, f"the files in {data.path} to be free", say)
        os.ftruncate(lock.descriptor, 0)
        if not data.postgres.exists():
            say(f"making a new corpus in {data.path}")
            initialise(data, account, lock.descriptor)
        forget_postmaster(data)
        start_guarded(data, account, lock.descriptor)
    socket_folder = _when_ready(data, say)
    if socket_folder is None:
        raise CorpusUnavailable(f"PostgreSQL did not start; its log, {data.log}, ends with:\n{data.log_end()}")
    return socket_folder


def _stop(data: DataFolder, say: Say) -> None:
    server, pid = read_postmaster(data), running_postmaster(data)
    if pid is not None:
        data.server.write_text(STOPPING)  # whoever comes after a kill of ours must not join a server that stops
        order_stop(pid)
    wait_until(lambda: not is_held(data.server), f"the PostgreSQL in {data.path} to write its data and stop", say)
    reap_guardian(data)
    if server is not None:
        with contextlib.suppress(OSError):  # the guardian did it, unless it was killed
            server.socket_folder.rmdir()
