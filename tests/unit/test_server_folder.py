"""The embedded server's folder: which can be used, which are refused and how, and what lies in it."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backends.corpus import locks
from backends.corpus.account import Account, in_namespace
from backends.corpus.binaries import program
from backends.corpus.data_folder import DataFolder
from backends.corpus.launch import first_shut_parent
from backends.corpus.postmaster import running_postmaster
from backends.corpus.server import attach
from backends.corpus.socket_folder import make_socket_folder
from backends.errors import CorpusUnavailable, InvalidSettings
from tests.unit.server_user import copied, eventually, is_running, postmaster_pid, using

AWKWARD = {
    "spaces": "my data  folder",
    "quotes": 'it\'s "quoted" and $HOME `id` \\ %20',
    "commas": "one,two;three=four",
    "unicode": "données 数据 🪨",
    "long": "/".join(["a-rather-long-folder-name"] * 12),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped corpus to copy or to use in place."""
    folder = tmp_path_factory.mktemp("corpus") / "data"
    attach(folder).detach()
    return folder


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> Iterator[Path]:
    """A stopped corpus of the test's own."""
    made = copied(corpus, tmp_path / "data")
    yield made
    assert eventually(lambda: not is_running(made)), "the server was left running"


@pytest.mark.parametrize("name", AWKWARD.values(), ids=AWKWARD)
def test_any_path_will_do(corpus: Path, tmp_path: Path, name: str) -> None:
    """Spaces, quotes, letters of any script and 300 characters in a path are nothing special."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    server = attach(copied(corpus, tmp_path / name))
    with psycopg.connect(server.url) as connection:
        where = connection.execute("SHOW data_directory").fetchone()
    assert where == (os.fspath(tmp_path / name / "postgres"),)
    server.detach()


def test_a_new_corpus_is_private_and_speaks_utf8(tmp_path: Path) -> None:
    """Whatever locale the environment names, a new corpus is UTF-8, orders by code points, and is ours alone."""
    folder = tmp_path / "new" / "data"
    program = """
import sys, psycopg
from pathlib import Path
from backends.corpus.server import attach
server = attach(Path(sys.argv[1]))
with psycopg.connect(server.url) as connection:
    for query in ("SHOW server_encoding", "SHOW TimeZone", "SELECT 'Z' < 'a' AND 'z' < 'é'", "SELECT upper('é')"):
        print(connection.execute(query).fetchone()[0])
server.detach()
"""
    foreign = {"LANG": "xx_YY.UTF-8", "LC_ALL": "xx_YY.UTF-8", "PGDATA": "/nowhere", "PGPORT": "1", "PGHOST": "nobody"}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, folder],
        env={**os.environ, **foreign, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert ran.stdout.split() == ["UTF8", "UTC", "True", "É"], ran.stderr
    for made in (folder, folder / "postgres", *folder.glob("*.lock"), folder / "postgres.log"):
        assert stat.S_IMODE(made.stat().st_mode) & 0o077 == 0, made


def test_the_socket_is_private(folder: Path) -> None:
    """PostgreSQL listens on no network address, only in a folder of mode 0700 that is gone when it has stopped."""
    server = attach(folder)
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        where = Path(connection.info.host)
    assert stat.S_IMODE(where.stat().st_mode) == 0o700
    server.detach()
    assert not where.exists()


def test_a_socket_folder_that_others_laid_out_is_not_used(folder: Path, tmp_path: Path) -> None:
    """A link, or a folder that others may enter, under the socket folder's name is left alone for another name."""
    data, account = DataFolder(folder), Account(os.geteuid(), os.getegid())
    usual = make_socket_folder(data, account)
    usual.rmdir()
    usual.symlink_to(tmp_path)
    beside_link = make_socket_folder(data, account)
    usual.unlink()
    usual.mkdir(mode=0o755)
    beside_open = make_socket_folder(data, account)
    for made in (beside_link, beside_open):
        assert made != usual
        assert stat.S_IMODE(made.lstat().st_mode) == 0o700
        made.rmdir()
    usual.rmdir()


def test_a_long_temporary_folder_is_not_used(folder: Path, tmp_path: Path) -> None:
    """Where TMPDIR is too long for a socket, another place is found."""
    long = tmp_path / ("t" * 100)
    long.mkdir()
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from backends.corpus.server import attach\n"
            "server = attach(Path(sys.argv[1])); print(server.url); server.detach()",
            folder,
        ],
        env={**os.environ, "TMPDIR": os.fspath(long), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ttttt" not in ran.stdout


def test_a_moved_corpus_is_found_again(folder: Path, tmp_path: Path) -> None:
    """A stopped folder can be moved, a relative path and a link to it lead to the same server."""
    moved = folder.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(moved)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        servers = [attach(path) for path in (moved, Path("moved"), Path("link"))]
    assert len({server.url for server in servers}) == 1
    for server in servers:
        server.detach()
    moved.rename(folder)


def test_a_file_is_refused(tmp_path: Path) -> None:
    """A file is no folder, neither as the data folder nor as its parent."""
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InvalidSettings, match=r"^data: .*file is a file; name a folder"):
        attach(file)
    with pytest.raises(InvalidSettings, match=r"^data: .*cannot be used"):
        attach(file / "below")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("path", ["line\nbreak", "nul\0", "n" * 300])
def test_an_impossible_name_is_refused(tmp_path: Path, path: str) -> None:
    """A name that no folder can have, or that PostgreSQL cannot write down, is named and refused."""
    with pytest.raises(InvalidSettings, match=r"^data: "):
        attach(tmp_path / path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path) -> None:
    """Missing rights are told before anything is made."""
    tmp_path.chmod(0o500)
    for path in (tmp_path, tmp_path / "below"):
        with pytest.raises(InvalidSettings, match=r"^data: .*(not writable|cannot be used).*; name a folder"):
            attach(path)
    tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system in which nobody may write")
def test_a_place_where_nobody_may_write_is_refused() -> None:
    """Where even root can make nothing, the error names the folder and the fix."""
    with pytest.raises(InvalidSettings, match=r"^data: /proc/ragstone cannot be used: .*; name a folder in which"):
        attach(Path("/proc/ragstone"))


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    """Somebody's documents do not become a data folder; hidden files and a disk's lost+found are no matter."""
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidSettings, match=r"^data: .*holds other things \(thesis.txt\); name a folder"):
        attach(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "thesis.txt").rename(tmp_path / ".thesis")
    (tmp_path / "lost+found").mkdir()
    with using(tmp_path) as url:
        assert url


def test_another_major_version_is_refused(folder: Path, tmp_path: Path) -> None:
    """The files of another PostgreSQL are left alone, whether they are a corpus or its bare data directory."""
    (folder / "postgres" / "PG_VERSION").write_text("16\n")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "PG_VERSION").write_text("15\n")
    for path, version in ((folder, 16), (tmp_path / "bare", 15)):
        with pytest.raises(InvalidSettings, match=f"^data: .*holds a PostgreSQL {version}, and this is PostgreSQL 18"):
            attach(path)
    assert not (folder / "postgres" / "postmaster.pid").exists()


def test_a_damaged_corpus_is_refused(folder: Path) -> None:
    """A corpus whose files were half deleted is not taken for an empty one."""
    (folder / "postgres" / "PG_VERSION").unlink()
    with pytest.raises(InvalidSettings, match=r"lacks its file PG_VERSION; restore"):
        attach(folder)
    assert (folder / "postgres" / "base").exists()


def test_a_dead_servers_pid_file_is_no_matter(folder: Path) -> None:
    """A `postmaster.pid` whose process is gone, or is another program now, does not keep PostgreSQL from starting."""
    server = attach(folder)
    pid_file = folder / "postgres" / "postmaster.pid"
    pid = postmaster_pid(folder)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not is_running(folder))
    server.detach()
    lines = pid_file.read_text().split("\n")
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    for found in (pid, other.pid, 1):
        pid_file.write_text("\n".join([str(found), *lines[1:]]))
        with using(folder) as url, psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    other.communicate(b"\n")
    assert other.returncode == 0


def test_a_server_that_somebody_else_started_is_left_alone(folder: Path, tmp_path: Path) -> None:
    """A PostgreSQL that an operator runs on the folder by hand is named, and neither joined nor disturbed."""
    data = DataFolder(folder)
    account = Account(os.geteuid(), os.getegid())
    if os.geteuid() == 0:
        account = in_namespace(account) or account
    sockets = tmp_path / "s"
    sockets.mkdir(mode=0o700)
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={sockets}"]
    command = account.command(data, program("postgres"), "-D", data.postgres, *options)
    operators = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    if operators.poll() == 77:
        pytest.skip("root may not enter a user namespace here")
    assert eventually(lambda: running_postmaster(data) is not None)
    with pytest.raises(CorpusUnavailable, match=f"process {operators.pid} is a PostgreSQL that somebody else started"):
        attach(folder)
    assert operators.poll() is None
    operators.send_signal(signal.SIGINT)
    assert operators.wait(timeout=20) == 0


def test_a_failed_start_says_why(folder: Path) -> None:
    """Where PostgreSQL does not start, the error carries the end of its log and says where that is."""
    with (folder / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("not_a_setting = 1\n")
    with pytest.raises(CorpusUnavailable, match="unrecognized configuration parameter") as caught:
        attach(folder)
    assert os.fspath(folder / "postgres.log") in str(caught.value)
    assert not is_running(folder)


def test_waiting_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While PostgreSQL repairs its files after a crash, it is waited for, with a word from time to time."""
    server = attach(folder)
    os.kill(postmaster_pid(folder), signal.SIGKILL)
    assert eventually(lambda: not is_running(folder))
    server.detach()
    monkeypatch.setattr(locks, "SAY_EVERY_S", 0.01)
    said: list[str] = []
    server = attach(folder, said.append)
    server.detach()
    assert any("to get ready; after a crash it repairs its files first" in word for word in said)


def test_a_deleted_folder_does_not_hang_the_detach(folder: Path) -> None:
    """Where the folder is deleted under its server, detaching returns, and the server stops."""
    server = attach(folder)
    pid = postmaster_pid(folder)
    shutil.rmtree(folder)
    server.detach()
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    folder.mkdir()


def test_the_shut_parent_is_found(tmp_path: Path) -> None:
    """Of a path's parents, the outermost that may not be entered is named; none where all are open."""
    assert first_shut_parent(os.fspath(tmp_path / "data")) == ""
    if os.geteuid() != 0:
        (tmp_path / "shut" / "inner").mkdir(parents=True)
        (tmp_path / "shut").chmod(0o600)
        assert first_shut_parent(os.fspath(tmp_path / "shut" / "inner" / "data")) == os.fspath(tmp_path / "shut")
        (tmp_path / "shut").chmod(0o700)
