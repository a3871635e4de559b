"""The guardian as a log keeper: everything is kept at first, and never more than a few megabytes."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg

from backends.corpus import guardian
from backends.corpus.server import attach
from tests.unit.server_user import eventually, guardian_pid, is_running


def kept(log: Path, *blocks: bytes) -> None:
    """Let the guardian's part that keeps the log hear these, to the end."""
    reading, writing = os.pipe()
    thread = threading.Thread(target=guardian.keep_log, args=(reading, os.fspath(log)))
    thread.start()
    for block in blocks:
        os.write(writing, block)
    os.close(writing)
    thread.join()
    os.close(reading)


def test_the_log_does_not_grow_without_end(tmp_path: Path) -> None:
    """However much PostgreSQL says, the newest of it is kept, in two files of a few megabytes."""
    log = tmp_path / "log"
    lines = [b"%07d " % number + b"x" * 992 for number in range(14_000)]
    kept(log, *lines)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) <= {"log", "log.1"}
    assert sum(sizes.values()) <= 2 * guardian.LOG_LIMIT_BYTES + 2**20
    both = (tmp_path / "log.1").read_bytes() + (log.read_bytes() if log.exists() else b"")
    assert both.endswith(lines[-1])
    assert b"".join(lines[-4000:]) in both


def test_the_log_goes_on_where_it_was(tmp_path: Path) -> None:
    """A new start adds to the log of the one before."""
    kept(tmp_path / "log", b"first\n")
    kept(tmp_path / "log", b"second\n")
    assert (tmp_path / "log").read_bytes() == b"first\nsecond\n"


def test_a_log_that_cannot_be_written_is_no_matter(tmp_path: Path) -> None:
    """What PostgreSQL says is read on, lest it wait, and a link in the log's place is not followed."""
    (tmp_path / "elsewhere").touch()
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    kept(tmp_path / "log", *[b"x" * 4096] * 100)
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_a_program_that_loses_a_signal_is_stopped_yet(tmp_path: Path) -> None:
    """A deserted guardian repeats its order: PostgreSQL may lose one that comes while it is being started."""
    program = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: print("heard", file=sys.stderr) or signal.signal(signal.SIGINT, signal.SIG_DFL))
time.sleep(60)
"""
    for name in ("users", "transition"):
        (tmp_path / name).touch()
    places = [tmp_path / name for name in ("log", "users", "transition", "sockets")]
    with (tmp_path / "users").open() as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        child = [sys.executable, "-u", "-c", program]
        running = subprocess.Popen([sys.executable, "-I", "-S", guardian.__file__, *places, *child])
        time.sleep(0.5)
    assert running.wait(timeout=30) == 0
    assert (tmp_path / "log").read_text() == "heard\n"


def test_a_program_that_cannot_be_run_is_in_the_log(tmp_path: Path) -> None:
    """The guardian tells in the log why PostgreSQL's program did not start, and ends."""
    for name in ("users", "transition"):
        (tmp_path / name).touch()
    places = [tmp_path / name for name in ("log", "users", "transition", "sockets")]
    command = [sys.executable, "-I", "-S", guardian.__file__, *places, tmp_path / "missing"]
    with (tmp_path / "users").open() as users:
        fcntl.flock(users, fcntl.LOCK_SH)  # deserted, it would stop the program at once
        assert subprocess.run(command, check=False, timeout=30).returncode == 0
    assert (tmp_path / "log").read_text() == f"{tmp_path / 'missing'}: No such file or directory\n"


def test_the_server_lives_without_its_guardian(tmp_path: Path) -> None:
    """Where the guardian is killed, PostgreSQL serves on, logs into the void, and is stopped by the last one out."""
    folder = tmp_path / "data"
    server = attach(folder)
    os.kill(guardian_pid(folder), signal.SIGKILL)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DO $$ BEGIN FOR i IN 1..2000 LOOP RAISE LOG 'word'; END LOOP; END $$")
        assert connection.execute("SELECT 1").fetchone() == (1,)
    server.detach()
    assert not is_running(folder)
    assert eventually(lambda: "word" not in (folder / "postgres.log").read_text()[-1000:])
