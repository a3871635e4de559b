"""What a backup says of itself: `manifest.json`, written last, and `started.json`, written first.

Nothing in it is trusted: names are the ones that this format gives, numbers are bounded, and what should add up is
added up. A manifest that does not pass is damage, with the part that is wrong.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from backends.errors import BackupDamaged, InvalidInput
from backends.types import IndexSpec, Metric, Precision
from ops.backup.sealing import seal, unseal
from retrieval.checking import check_name
from retrieval.generation.templates import PromptTemplate

FORMAT_VERSION = 2
"""1 has no prompts."""
MANIFEST = "manifest.json"
STARTED = "started.json"
VERIFIED = "verified.json"

MAX_SHARD_ROWS = 1 << 20
MAX_SHARD_BYTES = 1 << 30
"""A shard is read whole into memory. Those that are written here are far smaller."""
MAX_RUNS = 1 << 27
"""Each is 16 bytes: what 2 GiB of memory hold, enough for a collection of 10**8 chunks with every other one deleted."""
MAX_RUNS_BYTES = 4 << 30

Kind = Literal["full", "incremental"]
FileKind = Literal["chunks", "live", "deletes"]

_INT64 = 1 << 63
Id = Annotated[int, Field(ge=0, lt=_INT64)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
SystemIdentifier = Annotated[int, Field(ge=-_INT64, lt=_INT64)]
"""PostgreSQL shows its 64 bits with a sign."""
Word = Annotated[str, StringConstraints(min_length=1, max_length=200)]

_ID = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-(full|incremental)")
_CHUNKS_NAME = re.compile(r"c(0|[1-9][0-9]{0,18})-chunks-[0-9]{6}\.parquet")
_FILE_NAME = re.compile(r"c(0|[1-9][0-9]{0,18})-(chunks-[0-9]{6}|live|deletes)\.parquet")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Started(_Part):
    system_identifier: SystemIdentifier
    started_at: AwareDatetime


class ShardFile(_Part):
    """One Parquet file. `rows` are chunks or runs; the ids are the first and the last chunk's, None for runs."""

    name: Annotated[str, StringConstraints(max_length=100)]
    kind: FileKind
    rows: Annotated[int, Field(ge=0, le=MAX_RUNS)]
    size_bytes: Annotated[int, Field(ge=1, le=MAX_RUNS_BYTES)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    first_id: Id | None
    last_id: Id | None


class _Embedder(_Part):
    model: Word
    revision: str
    dimension: int
    normalised: bool
    query_prefix: str
    passage_prefix: str
    numerics: str


class _Chunker(_Part):
    name: Word
    max_tokens: Annotated[int, Field(ge=1)]
    overlap_tokens: Annotated[int, Field(ge=0)]


class _Stamp(_Part):
    """What made a collection's embeddings: whoever opens it takes it apart, so it must be what this version writes."""

    embedder: _Embedder
    chunker: _Chunker


def _checked_prompt(prompt: dict[str, str]) -> dict[str, str]:
    if prompt.keys() != {"system", "user"}:
        raise ValueError("needed system and user")
    return PromptTemplate(**prompt).as_dict()


class CollectionEntry(_Part):
    """One collection as it was at the snapshot. `parent` is the backup that this entry goes on from, or None."""

    name: str
    collection_id: Id
    dimension: Annotated[int, Field(ge=1, le=1 << 20)]
    metric: Metric
    precision: Precision
    stamp: dict[str, Any] | None
    backend: Word
    pinned_backend: Word | None
    placement_threshold: Annotated[int, Field(ge=1, lt=_INT64)] | None
    recall_target: Annotated[float, Field(ge=0, le=1)] | None
    prompt: Annotated[dict[str, str], AfterValidator(_checked_prompt)] | None = None
    sequence: Count
    documents: Count
    chunks: Count
    created_at: AwareDatetime
    parent: str | None
    files: list[ShardFile]

    @property
    def spec(self) -> IndexSpec:
        return IndexSpec(dimension=self.dimension, metric=self.metric, precision=self.precision)

    def of_kind(self, kind: FileKind) -> list[ShardFile]:
        """Return this entry's files of one kind, in their order."""
        return [file for file in self.files if file.kind == kind]


class Manifest(_Part):
    """One backup. `id` is its folder's name and begins with `snapshot_at`."""

    format_version: Annotated[int, Field(ge=1)]
    id: str
    kind: Kind
    tool_version: Word
    postgresql_version: Word
    pgvector_version: Word
    system_identifier: SystemIdentifier
    timeline: Count
    started_at: AwareDatetime
    snapshot_at: AwareDatetime
    finished_at: AwareDatetime
    index_settings: dict[str, int | float | str]
    collections: list[CollectionEntry]

    @property
    def files(self) -> dict[str, ShardFile]:
        """Every Parquet file of this backup, by name."""
        return {file.name: file for entry in self.collections for file in entry.files}

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())

    def entry(self, collection_id: int) -> CollectionEntry | None:
        """Return the entry of this collection, or None."""
        return next((entry for entry in self.collections if entry.collection_id == collection_id), None)


def new_id(snapshot_at: datetime, kind: Kind) -> str:
    """Return the id of a backup: ids sort by time."""
    return f"{snapshot_at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}-{kind}"


def is_id(text: str) -> bool:
    """Whether a text has the form of a backup's id."""
    return _ID.fullmatch(text) is not None


def is_file_name(text: str) -> bool:
    """Whether a file of a backup can have this name: no other one is ever read or written."""
    return text in (MANIFEST, STARTED, VERIFIED) or _FILE_NAME.fullmatch(text) is not None


def file_name(collection_id: int, kind: FileKind, number: int = 1) -> str:
    """Return the name of a Parquet file; only chunks have more than one, numbered from 1."""
    part = f"chunks-{number:06d}" if kind == "chunks" else kind
    return f"c{collection_id}-{part}.parquet"


def dump_started(system_identifier: int, started_at: datetime) -> bytes:
    """Return `started.json`: whose backup it is, and since when."""
    content = {"started_at": started_at.astimezone(UTC).isoformat(), "system_identifier": system_identifier}
    return json.dumps(content).encode()


def parse_started(data: bytes, backup_id: str) -> int:
    """Return the system identifier of the corpus whose backup this is; raises BackupDamaged."""
    try:
        return _Started.model_validate_json(data).system_identifier
    except ValidationError as error:
        raise BackupDamaged(f"{backup_id}/{STARTED}", first_problem(error)) from error


def dump(manifest: Manifest, key: str | None) -> bytes:
    """Return `manifest.json`. Raises BackupDamaged where `parse` would not read it again."""
    data = seal("manifest", manifest.model_dump(mode="json"), key)
    parse(data, manifest.id, key)
    return data


def parse(data: bytes, backup_id: str, key: str | None) -> Manifest:
    """Return the manifest in the folder `backup_id`, checked; raises BackupDamaged for anything that is wrong."""
    file = f"{backup_id}/{MANIFEST}"
    content = unseal(data, file, "manifest", key)
    _check_version(content, file)
    try:
        manifest = Manifest.model_validate_json(content)
        _check(manifest, backup_id)
    except ValidationError as error:
        raise BackupDamaged(file, first_problem(error)) from error
    except InvalidInput as error:
        raise BackupDamaged(file, str(error)) from error
    return manifest


def first_problem(error: ValidationError) -> str:
    """Return the first of what pydantic found: which field, and what is wrong with it."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"[:300]


def _check_version(content: bytes, file: str) -> None:
    """A newer version may look quite different: say so before anything else."""
    parsed = json.loads(content)
    version = parsed.get("format_version") if isinstance(parsed, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise BackupDamaged(
            file, f"found format_version {version}; this Ragstone reads up to {FORMAT_VERSION}: update Ragstone"
        )


def _check(manifest: Manifest, backup_id: str) -> None:
    if not manifest.id == backup_id == new_id(manifest.snapshot_at, manifest.kind):
        raise InvalidInput("id", f"found {manifest.id!r}; needed the folder's name, and that of snapshot_at and kind")
    _check_distinct("name", (entry.name for entry in manifest.collections))
    _check_distinct("collection_id", (entry.collection_id for entry in manifest.collections))
    for position, entry in enumerate(manifest.collections):
        try:
            _check_entry(manifest, entry)
        except InvalidInput as error:
            raise InvalidInput(f"collections[{position}].{error.field}", error.problem) from error


def _check_entry(manifest: Manifest, entry: CollectionEntry) -> None:
    check_name(entry.name)
    _ = entry.spec  # raises where there is no such index
    if entry.stamp is not None:
        stamp = _Stamp.model_validate_json(json.dumps(entry.stamp))
        if stamp.embedder.dimension != entry.dimension:
            raise InvalidInput("stamp", f"found dimension {stamp.embedder.dimension}; needed {entry.dimension}")
    if entry.parent is not None and (manifest.kind == "full" or not is_id(entry.parent) or entry.parent >= manifest.id):
        raise InvalidInput("parent", "needed none in a full backup, else the id of an older backup")
    if entry.documents > entry.chunks:
        raise InvalidInput("documents", f"found {entry.documents}; needed at most {entry.chunks}, one chunk each")
    _check_files(entry)
    for position, file in enumerate(entry.files):
        _check_file(file, f"files[{position}]")
    _check_ids(entry.of_kind("chunks"))
    rows = sum(file.rows for file in entry.of_kind("chunks"))
    if rows > entry.chunks or (entry.parent is None and rows != entry.chunks):
        raise InvalidInput("chunks", f"found {entry.chunks}; its chunk shards have {rows} rows")


def _check_files(entry: CollectionEntry) -> None:
    """One file of live runs, one of deleted ones where there is a parent, and names as they are given here."""
    kinds = Counter(file.kind for file in entry.files)
    deletes = 0 if entry.parent is None else 1
    if (kinds["live"], kinds["deletes"]) != (1, deletes):
        raise InvalidInput(
            "files", f"found {kinds['live']} live and {kinds['deletes']} deletes files; needed 1 and {deletes}"
        )
    _check_distinct("files", (file.name for file in entry.files))
    for file in entry.files:
        if file.kind == "chunks":
            good = _CHUNKS_NAME.fullmatch(file.name) and file.name.startswith(f"c{entry.collection_id}-")
        else:
            good = file.name == file_name(entry.collection_id, file.kind)
        if not good:
            raise InvalidInput("files", f"found {file.name!r}; needed a name as this format gives")


def _check_file(file: ShardFile, field: str) -> None:
    if file.kind != "chunks":
        if (file.first_id, file.last_id) != (None, None):
            raise InvalidInput(f"{field}.first_id", "needed null for runs")
        return
    if not 1 <= file.rows <= MAX_SHARD_ROWS or file.size_bytes > MAX_SHARD_BYTES:
        raise InvalidInput(
            field,
            f"found {file.rows} rows in {file.size_bytes} bytes; needed 1 to {MAX_SHARD_ROWS} in {MAX_SHARD_BYTES}",
        )
    if file.first_id is None or file.last_id is None or file.last_id - file.first_id + 1 < file.rows:
        raise InvalidInput(f"{field}.last_id", f"needed a first and a last id that {file.rows} rows fit between")


def _check_ids(shards: list[ShardFile]) -> None:
    """Ids go up from shard to shard: no row stands in two of them."""
    last = -1
    for shard in sorted(shards, key=lambda shard: shard.name):
        assert shard.first_id is not None
        assert shard.last_id is not None
        if shard.first_id <= last:
            raise InvalidInput("files", f"the ids of {shard.name} begin before those of the shard before it end")
        last = shard.last_id


def _check_distinct(field: str, values: Iterable[object]) -> None:
    value, times = next(iter(Counter(values).most_common(1)), (None, 0))
    if times > 1:
        raise InvalidInput(field, f"found {value!r} {times} times; needed it once")
