"""The embedded server among several users: started by the first, stopped by the last, whatever is killed."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from backends.corpus.data_folder import DataFolder
from backends.corpus.postmaster import running_postmaster
from backends.corpus.server import EmbeddedServer, attach
from tests.unit.server_user import (
    ServerUser,
    eventually,
    guardian_pid,
    is_running,
    postmaster_pid,
    processes_of,
    using,
)

needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus for all tests."""
    folder = tmp_path_factory.mktemp("corpus") / "data"
    attach(folder).detach()
    return folder


@pytest.fixture
def folder(corpus: Path) -> Iterator[Path]:
    """A stopped corpus, which every test leaves stopped; at its end no process of it is there."""
    yield corpus
    assert eventually(lambda: not is_running(corpus)), "the server was left running"
    assert eventually(lambda: not processes_of(corpus)), processes_of(corpus)


def answers(url: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT 1").fetchone()
    return row == (1,)


def test_the_last_one_out_stops_the_server(folder: Path) -> None:
    """Two uses in one process share a server, which runs until both have detached; each may detach twice."""
    first = attach(folder)
    second = attach(folder)
    assert first.url == second.url
    first.detach()
    first.detach()
    assert answers(second.url)
    second.detach()
    assert not is_running(folder)
    second.detach()


def test_what_was_written_is_there_after_a_restart(folder: Path) -> None:
    """A stop loses nothing."""
    server = attach(folder)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    server.detach()
    server = attach(folder)
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
    server.detach()


def test_processes_share_a_server(folder: Path) -> None:
    """Whoever started it may leave: the server goes on for a process that joined, which stops it at last."""
    starter = ServerUser(folder)
    url = starter.url()
    joined = attach(folder)
    assert joined.url == url
    starter.leave()
    assert answers(joined.url)
    joined.detach()
    assert not is_running(folder)


def test_many_come_at_once(tmp_path: Path) -> None:
    """Six processes that open an empty folder at the same moment get one and the same server."""
    folder = tmp_path / "data"
    users = [ServerUser(folder) for _ in range(6)]
    assert len({user.url() for user in users}) == 1
    for user in users:
        user.leave()
    assert not is_running(folder)
    assert not processes_of(folder)


def test_threads_come_and_go(folder: Path) -> None:
    """Threads that attach and detach at random always find a server that answers."""
    failures: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(4):
                server = attach(folder)
                assert answers(server.url)
                server.detach()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_killed_user_does_not_keep_the_server_running(folder: Path) -> None:
    """After one of two users was killed, the other is the last one out."""
    killed = ServerUser(folder)
    killed.url()
    server = attach(folder)
    killed.kill()
    assert answers(server.url)
    server.detach()
    assert not is_running(folder)


def test_an_orphaned_server_stops_by_itself(folder: Path) -> None:
    """When its only user is killed, the server is stopped without anybody coming, and its data is whole."""
    killed = ServerUser(folder)
    sockets = conninfo_to_dict(killed.url())["host"]
    killed.kill()
    assert eventually(lambda: not is_running(folder))
    assert not Path(str(sockets)).exists()
    with using(folder) as url:
        assert answers(url)


@needs_proc
def test_an_orphan_without_a_guardian_is_joined(folder: Path) -> None:
    """Where the guardian was killed too, the next opener joins the server, and stops it when last out."""
    killed = ServerUser(folder)
    url = killed.url()
    os.kill(guardian_pid(folder), signal.SIGKILL)
    killed.kill()
    pid = postmaster_pid(folder)
    server = attach(folder)
    assert (server.url, postmaster_pid(folder)) == (url, pid)
    assert answers(url)
    server.detach()
    assert not is_running(folder)
    assert not Path(str(conninfo_to_dict(url)["host"])).exists()


@pytest.mark.parametrize("seed", range(2))
def test_users_are_killed_at_random_moments(folder: Path, seed: int) -> None:
    """However early or late a process is killed while it starts, uses or stops a server, the next one can use it."""
    random_ = random.Random(seed)
    for _ in range(3):
        user = ServerUser(folder)
        if random_.random() < 0.5:
            user.url()
            assert user.process.stdin
            user.process.stdin.write("\n")
            user.process.stdin.flush()
            time.sleep(random_.uniform(0.0, 0.06))
        else:
            time.sleep(random_.uniform(0.05, 0.4))
        user.kill()
    with using(folder) as url:
        assert answers(url)


@pytest.mark.parametrize("after_s", [0.0, 0.4])
def test_an_unfinished_initdb_is_done_again(tmp_path: Path, after_s: float) -> None:
    """A process that was killed while it made a new corpus leaves nothing that the next one trips over."""
    folder = tmp_path / "data"
    user = ServerUser(folder)
    assert eventually((folder / "postgres.unfinished").exists)
    time.sleep(after_s)
    user.kill()
    with using(folder) as url:
        assert answers(url)
    assert not (folder / "postgres.unfinished").exists()


def test_a_stop_that_was_begun_is_finished(folder: Path) -> None:
    """Where whoever stopped the server was killed at it, the next one does not join a server that is going away."""
    user = ServerUser(folder)
    user.url()
    (folder / "server.lock").write_text("stopping")
    pid = postmaster_pid(folder)
    server = attach(folder)
    assert postmaster_pid(folder) != pid
    assert answers(server.url)
    server.detach()
    user.leave()


def test_a_killed_postmaster_is_replaced(folder: Path) -> None:
    """After PostgreSQL itself was killed, the next opener starts it again at the address that others know."""
    first = attach(folder)
    os.kill(postmaster_pid(folder), signal.SIGKILL)
    assert eventually(lambda: running_postmaster(DataFolder(folder)) is None)
    second = attach(folder)
    assert second.url == first.url
    assert answers(first.url)
    first.detach()
    assert answers(second.url)
    second.detach()
    assert not is_running(folder)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # newer Pythons warn of any fork
def test_a_forked_child_does_not_stop_the_server(folder: Path) -> None:
    """A detach in a forked child does nothing; the child's end does not either."""
    server = attach(folder)
    child = os.fork()
    if child == 0:
        server.detach()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert answers(server.url)
    server.detach()
    assert not is_running(folder)


def test_an_interrupt_from_the_terminal_does_not_reach_the_server(folder: Path) -> None:
    """Ctrl-C ends the processes of a terminal's session; the server is in another, and serves on."""
    server = attach(folder)
    pid = postmaster_pid(folder)
    assert os.getsid(pid) != os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0)
    os.killpg(os.getpgid(pid), 0)
    assert answers(server.url)
    server.detach()


@needs_proc
def test_the_server_inherits_no_file_of_ours(folder: Path, tmp_path: Path) -> None:
    """An open file of this process, even one that children may inherit, is not open in the server."""
    with (tmp_path / "ours").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        server = attach(folder)
        for pid in (postmaster_pid(folder), guardian_pid(folder)):
            opened = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
            assert os.fspath(tmp_path / "ours") not in opened
        server.detach()


@needs_proc
def test_the_guardian_is_small(folder: Path) -> None:
    """The process that stays beside PostgreSQL has less than 12 MB of memory of its own."""
    server = attach(folder)
    status = Path(f"/proc/{guardian_pid(folder)}/status").read_text()
    assert int(status.split("RssAnon:")[1].split()[0]) < 12 * 1024
    server.detach()


def test_children_are_reaped(folder: Path) -> None:
    """A process that starts, leaves and outlives servers has no dead children, and no warning at its end."""
    program = """
import os, subprocess, sys
from pathlib import Path
from backends.corpus.server import attach
folder = Path(sys.argv[1])
for _ in range(2):
    attach(folder).detach()
listed = subprocess.run(["ps", "-eo", "ppid,stat,args"], capture_output=True, text=True).stdout
print([line for line in listed.splitlines() if line.split()[0] == str(os.getpid()) and "<defunct>" in line])
attach(folder)
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program, os.fspath(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_joining_is_quick(folder: Path) -> None:
    """Joining a running server takes a few milliseconds, well below 50."""
    server = attach(folder)
    joined: list[EmbeddedServer] = []
    began = time.perf_counter()
    joined.extend(attach(folder) for _ in range(5))
    assert (time.perf_counter() - began) / 5 < 0.05
    for each in (*joined, server):
        each.detach()
