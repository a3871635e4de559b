"""Whether a backup is what was written, with everything that it goes on from.

`sizes` looks at the manifests and at the names and sizes of the files; `hashes` reads every byte as well, and adds
up what every file holds; `drill` restores it into a scratch corpus besides. All that is wrong is reported, and what
was found is remembered beside the manifest.
"""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple, get_args

from backends.corpus.machine import usable_cores
from backends.errors import BackupDamaged, BackupNotFound, InvalidInput, RepositoryUnavailable
from ops.backup import records
from ops.backup.chains import Link, linked, load, look, verifications
from ops.backup.contents import check_count, check_step, ids_in
from ops.backup.manifest import (
    MANIFEST,
    STARTED,
    VERIFIED,
    CollectionEntry,
    FileKind,
    Manifest,
    ShardFile,
    dump_started,
)
from ops.backup.progress import Meter, Watch, nobody
from ops.backup.records import MAX_PROBLEM_CHARACTERS, MAX_RECORD_BYTES, Depth, VerificationRecord
from ops.backup.repository import FileMissing, Repository
from ops.backup.runs import Runs
from ops.backup.stores import is_unfinished
from retrieval.config import Settings

MAX_WORKERS = 4
"""Each has a whole shard in memory."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found. `files` and `size_bytes` are those of the whole chain, `chunks` what a restore would bring.

    `problems` are pairs of a file and what is wrong with it. `drill` is what a drill measured, None without one.
    """

    backup_id: str
    depth: Depth
    ok: bool
    problems: list[tuple[str, str]]
    files: int
    size_bytes: int
    chunks: int
    duration_s: float
    drill: dict[str, Any] | None


def verify(
    repo: str,
    backup_id: str | None = None,
    *,
    depth: Depth = "hashes",
    key: str | None = None,
    watch: Watch = nobody,
    settings: Settings | None = None,
) -> Verification:
    """Verify a backup, the newest without an id, and all that it goes on from.

    Damage is no error here: it stands in the result, and in the backup's record. Raises BackupNotFound, InvalidInput,
    Unsupported and RepositoryUnavailable; and what `watch` raises.
    """
    if depth not in get_args(Depth):
        raise InvalidInput("depth", f"found {depth!r}; needed one of {', '.join(get_args(Depth))}")
    started_s = time.monotonic()
    repository = Repository.open(repo)
    tip = backup_id or _newest_id(repository, key)
    work = _Verifier(repository, key, watch)
    work.run(tip, depth)
    work.check_records()
    drill = None
    if depth == "drill" and not work.problems:
        from ops.backup.drill import run_drill

        with work.noting():
            drill = run_drill(repository, work.members[tip], key=key, settings=settings, watch=watch)
    found = work.result(tip, depth, drill, time.monotonic() - started_s)
    _remember(repository, found, key)
    return found


def check_sizes(repository: Repository, manifest: Manifest, key: str | None) -> None:
    """Raise BackupDamaged unless a backup, and all that it goes on from, has just its files, each of its size."""
    work = _Verifier(repository, key, nobody)
    work.run(manifest.id, "sizes")
    if work.problems:
        raise BackupDamaged(*work.problems[0])


def _newest_id(repository: Repository, key: str | None) -> str:
    """A damaged one counts: that it is damaged is what a verification is to find."""
    listing = look(repository, key)
    ids = [*(manifest.id for manifest in listing.complete), *listing.damaged]
    if not ids:
        raise BackupNotFound(f"there is no complete backup in {repository.url}")
    return max(ids)


class _File(NamedTuple):
    """A file that a manifest names."""

    backup_id: str
    entry: CollectionEntry
    shard: ShardFile

    @property
    def where(self) -> str:
        return f"{self.backup_id}/{self.shard.name}"

    def ids(self, repository: Repository) -> Runs:
        return ids_in(repository, self.backup_id, self.entry, self.shard)

    def check_size(self, found_bytes: int | None) -> None:
        if found_bytes is None:
            raise BackupDamaged(self.where, "it is missing")
        if found_bytes != self.shard.size_bytes:
            raise BackupDamaged(self.where, f"found {found_bytes:,} bytes; needed {self.shard.size_bytes:,}")


class _Verifier:
    """One verification under way. `members` are the manifests of the chain that could be read."""

    def __init__(self, repository: Repository, key: str | None, watch: Watch) -> None:
        self._repository = repository
        self._key = key
        self._watch = watch
        self._chains: list[list[Link]] = []
        self._held: dict[str, Runs] = {}
        self.members: dict[str, Manifest] = {}
        self.problems: list[tuple[str, str]] = []

    def run(self, tip: str, depth: Depth) -> None:
        with self.noting():
            for entry in self._load(tip).collections:
                with self.noting():
                    self._chains.append(linked(self._load, self.members[tip], entry))
        whole = [file for manifest in self.members.values() for file in self._whole_files(manifest)]
        if depth != "sizes":
            self._read(whole)
            self._add_up()

    def check_records(self) -> None:
        """Check what earlier verifications wrote down: a restore does without it."""
        for backup_id in self.members:
            with self.noting(), suppress(FileMissing):
                records.parse(self._repository.read_small(backup_id, VERIFIED, MAX_RECORD_BYTES), backup_id, self._key)

    def result(self, tip: str, depth: Depth, drill: dict[str, Any] | None, duration_s: float) -> Verification:
        manifests = self.members.values()
        newest = self.members.get(tip)
        return Verification(
            backup_id=tip,
            depth=depth,
            ok=not self.problems,
            problems=sorted(self.problems),
            files=sum(len(manifest.files) for manifest in manifests),
            size_bytes=sum(manifest.size_bytes for manifest in manifests),
            chunks=sum(entry.chunks for entry in newest.collections) if newest else 0,
            duration_s=duration_s,
            drill=drill,
        )

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Write down the damage that the block meets; what is met again is the same."""
        try:
            yield
        except BackupDamaged as error:
            self._note(error.file, error.problem)

    def _load(self, backup_id: str) -> Manifest:
        if backup_id not in self.members:
            self.members[backup_id] = load(self._repository, backup_id, self._key)
        return self.members[backup_id]

    def _whole_files(self, manifest: Manifest) -> list[_File]:
        """Check what is in a backup's folder, and return the files that are there in full."""
        files = [_File(manifest.id, entry, file) for entry in manifest.collections for file in entry.files]
        with self.noting():
            found = self._repository.files(manifest.id)
            self._check_beside(manifest, found)
            for file in files:
                with self.noting():
                    file.check_size(found.get(file.shard.name))
            return [file for file in files if found.get(file.shard.name) == file.shard.size_bytes]
        return []

    def _check_beside(self, manifest: Manifest, found: dict[str, int]) -> None:
        """Check the small files, and that there is nothing else."""
        for name in found.keys() - manifest.files.keys() - {MANIFEST, STARTED, VERIFIED}:
            if not is_unfinished(name, VERIFIED):  # a verification died
                self._note(f"{manifest.id}/{name}", "it does not belong to the backup")
        with self.noting():
            started = dump_started(manifest.system_identifier, manifest.started_at)
            if self._repository.read(manifest.id, STARTED, len(started)) != started:
                self._note(f"{manifest.id}/{STARTED}", "it does not say what the manifest says")

    def _read(self, files: list[_File]) -> None:
        """Read every file, several at once."""
        meter = Meter(self._watch, "reading", sum(file.shard.size_bytes for file in files), "bytes")
        with _threads() as threads:
            reading = {threads.submit(file.ids, self._repository): file for file in files}
            for future in as_completed(reading):
                file = reading.pop(future)
                with self.noting():
                    self._held[file.where] = future.result()
                meter.add(file.shard.size_bytes)

    def _add_up(self) -> None:
        """Check that every collection has its chunks, and that each chain adds up from its beginning."""
        for manifest in self.members.values():
            for entry in manifest.collections:
                for live in self._ids_of(manifest.id, entry, "live"):
                    with self.noting():
                        check_count(manifest.id, entry, live)
        for links in self._chains:
            before: Runs | None = None
            for backup_id, entry in links:
                parts = {kind: self._ids_of(backup_id, entry, kind) for kind in get_args(FileKind)}
                if sum(map(len, parts.values())) < len(entry.files):
                    break  # what is missing has been noted
                live, own = parts["live"][0], Runs.join(parts["chunks"])
                with self.noting():
                    check_step((backup_id, entry), before, live, Runs.join(parts["deletes"]), own)
                before = live

    def _ids_of(self, backup_id: str, entry: CollectionEntry, kind: FileKind) -> list[Runs]:
        """Return what the files of one kind hold, as far as they could be read."""
        names = (f"{backup_id}/{file.name}" for file in entry.of_kind(kind))
        return [self._held[name] for name in names if name in self._held]

    def _note(self, file: str, problem: str) -> None:
        if (file, problem) not in self.problems:
            self.problems.append((file, problem))


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Give threads to read with; on an error what has not begun is not begun."""
    threads = ThreadPoolExecutor(min(MAX_WORKERS, usable_cores()), thread_name_prefix="ragstone-verify")
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)


def _remember(repository: Repository, found: Verification, key: str | None) -> None:
    """Write the outcome down beside the manifest; where that is not allowed, it is still the caller's."""
    record = VerificationRecord(
        depth=found.depth,
        verified_at=datetime.now(UTC),
        ok=found.ok,
        duration_s=found.duration_s,
        problem=_summary(found.problems),
        tool_version=version("ragstone"),
    )
    try:
        before = verifications(repository, found.backup_id, key)
        data = records.dump(records.added(before, found.backup_id, record), key)
        repository.write(found.backup_id, VERIFIED, data)
    except (BackupDamaged, RepositoryUnavailable) as error:
        log.warning("the verification of %s could not be written down: %s", found.backup_id, error)


def _summary(problems: list[tuple[str, str]]) -> str | None:
    if not problems:
        return None
    file, problem = problems[0]
    more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
    return f"{file}: {problem}"[: MAX_PROBLEM_CHARACTERS - len(more)] + more
