"""A disk that fills up while a backup is written: a small tmpfs with ever more room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from backends.corpus.backups import latest_runs
from backends.errors import RepositoryUnavailable
from ops import backup
from retrieval import Ragstone

DIMENSION = 8
DISK_BYTES = 1 << 20
STEP_BYTES = 24_576


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _upsert(rag: Ragstone, first: int, count: int) -> None:
    random = np.random.default_rng(first)
    ids = [f"doc-{number}" for number in range(first, first + count)]
    texts = [random.bytes(150).hex() for _ in ids]  # hardly to be compressed
    rag.collection("notes").upsert_embeddings(ids, random.standard_normal((count, DIMENSION)), texts)


def test_a_full_disk_costs_no_earlier_backup(rag: Ragstone, disk: Path) -> None:
    """With however little room, a backup is there whole or not at all, says why, and earlier ones stay as they are."""
    rag.create_collection("notes", dimension=DIMENSION)
    _upsert(rag, 0, 200)
    repo = str(disk / "backups")
    first = backup.create(rag, repo)
    before = {file.name: file.read_bytes() for file in (disk / "backups" / first.id).iterdir()}
    _upsert(rag, 200, 1_500)
    outcomes = []
    for room_bytes in range(0, 20 * STEP_BYTES, STEP_BYTES):
        with _left(disk, room_bytes):
            outcomes.append(_try(rag, repo))
        listing = backup.list_backups(repo)
        made = [first.id, *filter(None, outcomes)]
        assert ([one.id for one in listing.complete], listing.incomplete, listing.damaged) == (made, [], {})
        if outcomes[-1] is not None:
            break
    assert len(outcomes) > 5
    assert outcomes[-1] is not None, "it never had room"
    assert {name: (disk / "backups" / first.id / name).read_bytes() for name in before} == before
    for backup_id in (first.id, outcomes[-1]):
        assert backup.verify(repo, backup_id).ok


def _try(rag: Ragstone, repo: str) -> str | None:
    """The id of a backup that had room; None for one that had none, and said so."""
    try:
        return backup.create(rag, repo, incremental=True).id
    except RepositoryUnavailable as error:
        problems = [run.problem for run in latest_runs(rag.database) if not run.ok]
        assert [str(error)] == problems  # noqa: PT017  # it is raised only while there is no room
        assert "no room" in problems[0]
        return None


class _left:  # noqa: N801  # reads as a phrase
    """Leave so many bytes of a disk, and give the rest back in the end."""

    def __init__(self, disk: Path, room_bytes: int) -> None:
        self._ballast = disk / "ballast"
        found = os.statvfs(disk)
        self._size_bytes = max(0, found.f_bavail * found.f_frsize - room_bytes)

    def __enter__(self) -> None:
        self._ballast.write_bytes(bytes(self._size_bytes))

    def __exit__(self, *_: object) -> None:
        self._ballast.unlink()
