"""Who the embedded PostgreSQL runs as where we are root, whom it refuses."""

import ctypes
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backends.corpus import launch
from backends.corpus.account import UNPRIVILEGED
from backends.corpus.server import attach
from tests.unit.server_user import ServerUser, is_running, postmaster_pid

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="only root on Linux needs another account for PostgreSQL"
)

# Runs the rest of its command line as a root that may do no more than in the usual container: no further user
# namespace, and only these capabilities (CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP).
AS_IN_A_CONTAINER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
status = libc.unshare(0x10000000)
print("inside" if status == 0 else "refused", flush=True)
if status == 0:
    assert os.read(0, 3) == b"go\\n"
    with open("/proc/sys/user/max_user_namespaces", "w") as limit:
        limit.write("0")
for capability in set(range(64)) - {0, 1, 3, 4, 5, 6, 7, 8}:
    libc.prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def namespaces_are_allowed() -> bool:
    child = os.fork()
    if child == 0:
        os._exit(ctypes.CDLL(None).unshare(launch.CLONE_NEWUSER) != 0)
    return os.waitpid(child, 0)[1] == 0


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every account may enter, which the folder of pytest is not."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def in_a_container(folder: Path) -> ServerUser:
    """Attach in a process whose root is as weak as a container's, for which it gets a namespace to be root in."""
    user = ServerUser(folder, prefix=(sys.executable, "-I", "-S", "-c", AS_IN_A_CONTAINER))
    assert user.process.stdout
    assert user.process.stdin
    if user.process.stdout.readline() == "inside\n":
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{user.process.pid}/{name}").write_text("0 0 65536")
        user.process.stdin.write("go\n")
        user.process.stdin.flush()
    return user


def as_account(folder: Path, uid: int, gid: int) -> ServerUser:
    """Attach as another user, with a Python that this one may run."""
    prefix = (sys.executable, "-I", "-S", launch.__file__, f"{uid}:{gid}", os.fspath(folder))
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        attempt = [
            *prefix,
            python,
            "-c",
            "from backends.corpus import binaries, server; binaries.program('postgres')",
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        if subprocess.run(attempt, env=environment, capture_output=True, check=False).returncode == 0:
            return ServerUser(folder, prefix=prefix, python=python)
    pytest.skip("other users may not run this Python, or not read its packages")


def owner_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def modes_above(folder: Path) -> list[int]:
    return [parent.stat().st_mode for parent in folder.parents]


def test_root_enters_a_namespace(tmp_path: Path) -> None:
    """Root's server is not root to itself, its files are root's, and no parent folder is opened for it."""
    if not namespaces_are_allowed():
        pytest.skip("this system does not let root make a user namespace")
    folder = tmp_path / "data"
    before = modes_above(folder)
    server = attach(folder)
    pid = postmaster_pid(folder)
    assert (folder / "postgres" / "PG_VERSION").stat().st_uid == 0
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE EXTENSION vector")
    server.detach()
    assert modes_above(folder) == before
    assert folder.stat().st_mode & 0o077 == 0


def test_root_without_namespaces_takes_an_account(reachable: Path) -> None:
    """Where namespaces are refused, an unprivileged account runs the server and owns its files, and no one else's."""
    folder = reachable / "data"
    before = modes_above(folder)
    user = in_a_container(folder)
    user.url()
    accounts = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_name in UNPRIVILEGED}
    assert owner_of(postmaster_pid(folder)) in accounts
    user.leave()
    assert folder.stat().st_uid == 0
    assert folder.stat().st_mode & 0o007 == 0
    files = list((folder / "postgres").rglob("*"))
    assert files
    assert {path.stat().st_uid for path in files} <= accounts
    assert modes_above(folder) == before


def test_a_corpus_goes_from_one_way_to_the_other(reachable: Path) -> None:
    """A corpus made in a namespace opens where namespaces are refused, and afterwards where they are allowed."""
    folder = reachable / "data"
    server = attach(folder)
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    server.detach()
    user = in_a_container(folder)
    user.url()
    user.leave()
    server = attach(folder)
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
    assert owner_of(postmaster_pid(folder)) != 0
    server.detach()


def test_a_parent_that_the_account_may_not_enter_is_named(reachable: Path) -> None:
    """Where the account cannot reach the data, the error says which folder is in the way and what to do."""
    shut = reachable / "shut"
    shut.mkdir(mode=0o700)
    words = in_a_container(shut / "data").failure()
    assert f"may not enter {shut};" in words
    assert "InvalidSettings: data: " in words
    assert "run Ragstone as an ordinary user" in words
    assert shut.stat().st_mode & 0o777 == 0o700


def test_root_serves_another_users_corpus_as_that_user(reachable: Path) -> None:
    """Where root opens a user's folder, server and files are the user's, who can open it afterwards."""
    folder = reachable / "data"
    folder.mkdir(mode=0o700)
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    server = attach(folder)
    assert owner_of(postmaster_pid(folder)) == nobody.pw_uid
    server.detach()
    assert {path.lstat().st_uid for path in folder.rglob("*")} == {nobody.pw_uid}
    for root_starts in (False, True):
        first = attach(folder) if root_starts else None
        user = as_account(folder, nobody.pw_uid, nobody.pw_gid)
        user.url()
        second = attach(folder)
        if first:
            first.detach()
            second.detach()
            user.leave()
        else:
            user.leave()
            second.detach()
        assert not is_running(folder)


def test_a_number_without_a_name_makes_a_corpus(reachable: Path) -> None:
    """A container's made-up user number, which initdb refuses, gets a name in a namespace, and needs none later."""
    folder = reachable / "data"
    reachable.chmod(0o777)
    user = as_account(folder, 4321, 4321)
    user.url()
    user.leave()
    assert {path.lstat().st_uid for path in folder.rglob("*")} == {4321}
    again = attach(folder)
    assert owner_of(postmaster_pid(folder)) == 4321
    again.detach()


def test_a_launch_has_a_status_for_what_is_in_the_way(reachable: Path) -> None:
    """The launcher tells a shut folder and a program that cannot run apart, and names them."""
    (reachable / "shut").mkdir(mode=0o700)
    for folder, program, status, word in (
        (reachable / "shut" / "data", "/bin/true", launch.SHUT_FOLDER, reachable / "shut"),
        (reachable / "data", reachable / "shut" / "program", launch.SHUT_PROGRAM, reachable / "shut" / "program"),
        (reachable / "data", "/bin/true", 0, ""),
    ):
        command = [sys.executable, "-I", "-S", launch.__file__, "4321:4321", folder, program]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (status, str(word))
