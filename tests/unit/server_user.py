"""A process of its own that uses an embedded server, for tests that kill it or set it beside others."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from backends.corpus.locks import is_held

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
from pathlib import Path
from backends.corpus.server import attach
server = attach(Path(sys.argv[1]), lambda word: print("say", word, flush=True))
print("url", server.url, flush=True)
sys.stdin.readline()
server.detach()
print("done", flush=True)
"""


class ServerUser:
    """A child process that attaches to a folder's server and stays until it is told to leave, or killed."""

    def __init__(self, folder: Path, *, prefix: tuple[str, ...] = (), python: str = sys.executable) -> None:
        self.process = subprocess.Popen(
            [*prefix, python, "-W", "error", "-c", PROGRAM, os.fspath(folder)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([os.fspath(ROOT), *sys.path])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.heard: list[str] = []

    def url(self) -> str:
        """Wait until it is attached; return what it may connect to."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.heard.append(line.strip())
            if line.startswith("url "):
                return line.removeprefix("url ").strip()
        _, errors = self.process.communicate()
        raise AssertionError(errors)

    def failure(self) -> str:
        """Wait until it has failed; return the last line of what it complained of."""
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 1, errors
        return errors.strip().splitlines()[-1]

    def leave(self) -> None:
        """Let it detach, and wait for its end."""
        said, errors = self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0, errors
        assert not errors, errors
        assert said.endswith("done\n")

    def kill(self) -> None:
        """End it as the system would when memory runs out."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@contextlib.contextmanager
def using(folder: Path) -> Iterator[str]:
    """Attach in a process of its own, and detach at the end."""
    user = ServerUser(folder)
    yield user.url()
    user.leave()


def copied(corpus: Path, folder: Path) -> Path:
    """Return a folder with a stopped corpus of its own, which is quicker than a new one."""
    shutil.copytree(corpus, folder)
    return folder


def eventually(true: Callable[[], bool], within_s: float = 20.0) -> bool:
    """Say whether something gets true before long."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_running(folder: Path) -> bool:
    """Say whether any process of PostgreSQL's is alive on this folder."""
    return is_held(folder / "server.lock")


def postmaster_pid(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().split()[0])


def guardian_pid(folder: Path) -> int:
    """Return PostgreSQL's parent."""
    status = Path(f"/proc/{postmaster_pid(folder)}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def processes_of(folder: Path) -> list[str]:
    """Return the processes whose command lines name this folder."""
    listed = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if os.fspath(folder) in line]
