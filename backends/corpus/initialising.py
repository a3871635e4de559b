"""A new corpus: the first files of PostgreSQL, made beside their place and moved there when they are whole."""

import os
import shutil
import subprocess
from pathlib import Path

from backends.corpus.account import Account
from backends.corpus.binaries import environment, program
from backends.corpus.data_folder import DataFolder
from backends.errors import CorpusUnavailable

USER = "ragstone"

# Text is ordered by code points, on every machine alike; case is Unicode's.
_LOCALE = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")


def initialise(data: DataFolder, account: Account, server_lock: int) -> None:
    """Make PostgreSQL's files; whatever a killed process left unfinished is made again from the start.

    initdb inherits `server_lock`, so that nobody begins again while one whose starter was killed still writes.
    Raises CorpusUnavailable with initdb's words where it fails.
    """
    if data.unfinished.exists():
        shutil.rmtree(data.unfinished)
    data.unfinished.mkdir(mode=0o700)
    account.own(data.unfinished)
    options = (f"--username={USER}", "--auth=trust", "--no-instructions", *_LOCALE)
    made = subprocess.run(  # noqa: S603  # ours
        account.command(data, program("initdb"), "-D", data.unfinished, *options),
        env=environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        pass_fds=(server_lock,),
        start_new_session=True,
        check=False,
    )
    if made.returncode != 0:
        shutil.rmtree(data.unfinished)
        words = "\n".join((made.stdout + made.stderr).decode(errors="replace").splitlines()[-6:])
        raise CorpusUnavailable(f"a new corpus could not be made in {data.path}; PostgreSQL's initdb said:\n{words}")
    data.unfinished.rename(data.postgres)
    _to_disk(data.path)


def _to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
