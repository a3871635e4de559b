"""The folder of an embedded corpus: what lies in it, and whether it can be used."""

import os
from dataclasses import dataclass
from pathlib import Path

from backends.corpus.binaries import MAJOR_VERSION
from backends.errors import InvalidSettings


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A corpus's folder by its real path. PostgreSQL's own files are in a folder within, locks and log beside it.

    `users` is shared by everybody who has the corpus open; `transition` is held while a server is started,
    joined or stopped; `server` is held by PostgreSQL's processes themselves, so it tells whether any is alive.
    Whoever needs several takes them in this order.
    """

    path: Path

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def unfinished(self) -> Path:
        return self.path / "postgres.unfinished"

    @property
    def log(self) -> Path:
        return self.path / "postgres.log"

    @property
    def users(self) -> Path:
        return self.path / "users.lock"

    @property
    def transition(self) -> Path:
        return self.path / "transition.lock"

    @property
    def server(self) -> Path:
        return self.path / "server.lock"

    def log_end(self, lines: int = 12) -> str:
        """Return the last lines that PostgreSQL wrote."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError as error:
            return f"(the log cannot be read: {error.strerror})"

    def is_ours(self, name: str) -> bool:
        """Say whether something of this name in the folder may be of our making, or of the file system's."""
        made = (self.postgres, self.unfinished, self.users, self.transition, self.server)
        return name in {path.name for path in made} or name.startswith((self.log.name, ".", "lost+found"))


def prepared(folder: Path) -> DataFolder:
    """Check the folder, and make it where it is missing; nothing is changed where it cannot be used.

    Raises InvalidSettings for a path that cannot be a folder, one that is not writable, holds other things or a
    PostgreSQL of another major version.
    """
    if any(ord(letter) < 32 for letter in str(folder)):
        raise InvalidSettings("data", f"{str(folder)!r} has a control character; name a folder without one")
    try:
        data = DataFolder(Path(os.path.realpath(os.path.expanduser(folder))))
        is_new = not data.path.exists() or _check_content(data)
        data.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(data.path, os.R_OK | os.W_OK | os.X_OK):
            raise InvalidSettings("data", f"{data.path} is not writable for this user; {_fix()}")
        if is_new and data.path.stat().st_uid == os.geteuid():
            data.path.chmod(0o700)
    except OSError as error:
        raise unusable(folder, error) from error
    return data


def _check_content(data: DataFolder) -> bool:
    """Raise where the folder is not one for us; say whether it is empty."""
    if not data.path.is_dir():
        raise InvalidSettings("data", f"{data.path} is a file; name a folder, which may be missing or empty")
    names = sorted(os.listdir(data.path))
    _check_version(data.path)
    if data.postgres.exists():
        _check_version(data.postgres)
        if not (data.postgres / "PG_VERSION").exists():
            raise InvalidSettings(
                "data", f"{data.postgres} lacks its file PG_VERSION; restore the folder from a backup"
            )
    others = [name for name in names if not data.is_ours(name)]
    if others and not data.postgres.exists():
        raise InvalidSettings(
            "data", f"{data.path} holds other things ({', '.join(others[:3])}); name a folder that is missing or empty"
        )
    return not names


def _check_version(place: Path) -> None:
    try:
        found = (place / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        return
    if found != MAJOR_VERSION:
        raise InvalidSettings(
            "data",
            f"{place} holds a PostgreSQL {found}, and this is PostgreSQL {MAJOR_VERSION}; name another folder, or move "
            "the data with pg_dump and pg_restore",
        )


def unusable(folder: Path, error: OSError) -> InvalidSettings:
    """Turn the system's error into one that names the folder and the fix."""
    return InvalidSettings("data", f"{folder} cannot be used: {error.strerror} ({error.filename}); {_fix()}")


def _fix() -> str:
    return "name a folder in which this user may write, or a postgresql:// URL"
