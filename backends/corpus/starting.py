"""Starting PostgreSQL under its guardian, with settings that fit the machine; reaping the guardian."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from backends.corpus import guardian
from backends.corpus.account import Account
from backends.corpus.binaries import environment, program
from backends.corpus.data_folder import DataFolder
from backends.corpus.locks import give_to_owner_of
from backends.corpus.machine import usable_cores, usable_memory_bytes
from backends.corpus.memory_settings import maintenance_memory_bytes, server_settings, shared_memory_type
from backends.corpus.socket_folder import PORT, make_socket_folder

# By data folder: who waits for the guardian that this process started, as a parent must. Others may stop it.
_reapers: dict[Path, threading.Thread] = {}


def start_guarded(data: DataFolder, account: Account, server_lock: int) -> None:
    """Start the guardian, and PostgreSQL with it, in a session of their own: Ctrl-C is not for them.

    Both inherit `server_lock`. Does not wait until PostgreSQL can be used.
    """
    socket_folder = make_socket_folder(data, account)
    options = [word for name, value in _settings(socket_folder).items() for word in ("-c", f"{name}={value}")]
    postgres = account.command(data, program("postgres"), "-D", data.postgres, *options)
    places = [os.fspath(path) for path in (data.log, data.users, data.transition, socket_folder)]
    complaints = os.open(data.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        give_to_owner_of(data.path, complaints)
        process = subprocess.Popen(  # noqa: S603  # ours
            [sys.executable, "-I", "-S", guardian.__file__, *places, *postgres],
            env=environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            pass_fds=(server_lock,),
            start_new_session=True,
        )
    finally:
        os.close(complaints)
    _reapers[data.path] = threading.Thread(target=process.wait, name="ragstone-reaper", daemon=True)
    _reapers[data.path].start()


def reap_guardian(data: DataFolder) -> None:
    """Wait for the end of the guardian that this process started; for when its PostgreSQL has stopped."""
    reaper = _reapers.pop(data.path, None)
    if reaper is not None:
        reaper.join()


def _settings(socket_folder: Path) -> dict[str, str]:
    memory_bytes = usable_memory_bytes()
    return {
        **server_settings(memory_bytes, usable_cores()),
        "dynamic_shared_memory_type": shared_memory_type(maintenance_memory_bytes(memory_bytes)),
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": f'"{socket_folder}"',
        "unix_socket_permissions": "0700",
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_checkpoints": "off",
        "log_min_error_statement": "panic",  # statements carry people's texts
    }
