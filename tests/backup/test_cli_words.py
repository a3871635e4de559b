"""What `ragstone backup` says, how it ends, and what is written of it: the README's lines and the format's page."""

import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import retrieval
from backends.corpus.backups import latest_runs
from backends.errors import InvalidInput
from ops import backup
from ops.backup import showing
from ops.backup.progress import Progress
from ops.cli.app import run
from ops.cli.backup import read_time
from ops.output import Output
from retrieval.config import load
from tests.service.serving import database_of_its_own

ROOT = Path(__file__).parents[2]
CHUNKS = 30
UNFINISHED = "20261125T143012.123456Z-full"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and its words."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Commands:
    """`ragstone backup` in this process, on one corpus and one repository."""

    def __init__(self, data: str, repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data = data
        self.repo = repo
        self._capsys = capsys

    def __call__(self, *args: object, repo: object = None, data: object = None) -> Ended:
        self._capsys.readouterr()
        words = ["--data", data or self.data, "backup", *args, "--repo", repo or self.repo]
        status = run([str(word) for word in words])
        return Ended(status, *self._capsys.readouterr())


@pytest.fixture
def rag(postgres_url: str) -> Iterator[retrieval.Ragstone]:
    """A corpus with a small collection."""
    with (
        database_of_its_own(postgres_url, "backup_words") as url,
        retrieval.open(url, settings=load(embedding_model="hashing")) as rag,
    ):
        upsert(rag.create_collection("stars", dimension=4), range(CHUNKS))
        yield rag


@pytest.fixture
def command(
    rag: retrieval.Ragstone, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Commands:
    monkeypatch.setattr(logging, "captureWarnings", lambda _: None)  # pytest has them
    monkeypatch.setenv("RAGSTONE_EMBEDDING_MODEL", "hashing")
    return Commands(rag.settings.data, tmp_path / "repository", capsys)


def upsert(collection: retrieval.Collection, numbers: range) -> None:
    """Write a document of one chunk for each number."""
    embeddings = np.eye(4, dtype=np.float32)[[number % 4 for number in numbers]]
    ids = [f"star {number}" for number in numbers]
    collection.upsert_embeddings(
        ids, embeddings, [f"{id_} shines" for id_ in ids], [{"n": number} for number in numbers]
    )


def test_the_whole_circle_in_words(rag: retrieval.Ragstone, command: Commands) -> None:
    """Each command says what it did, for people and as JSON, and ends with status 0."""
    made = command("create")
    assert (made.status, made.err) == (0, "")
    [full] = re.findall(r"^(\S+-full): \d+ files, ", made.out, re.MULTILINE)
    assert re.search(rf"^stars +{CHUNKS} +{CHUNKS} +{CHUNKS} +none: complete in itself", made.out, re.MULTILINE)

    stars = rag.collection("stars")
    stars.delete(ids=["star 0", "star 1"])
    upsert(stars, range(CHUNKS, CHUNKS + 1))
    changed = command("create", "--incremental", "--json").json
    assert changed["kind"] == "incremental"
    assert [(one["chunks"], one["written"], one["parent"]) for one in changed["collections"]] == [(CHUNKS - 1, 1, full)]

    assert "never" in command("list").out
    verified = command("verify")
    assert verified.status == 0
    assert verified.out.startswith(f"{changed['id']}: good (hashes; {CHUNKS - 1} chunks")
    listed = command("list")
    assert re.search(rf"^{full} +full +\S+ \S+ +1 +{CHUNKS} +\S+ kB +never", listed.out, re.MULTILINE)
    assert re.search(rf"^{changed['id']} .* hashes \S+ \S+ *$", listed.out, re.MULTILINE)
    assert [one["restorable"] for one in command("list", "--json").json["backups"]] == [True, True]

    restored = command("restore", "--as", "again", "--at", datetime.now(UTC).isoformat())
    assert restored.status == 0, restored.err
    assert re.search(rf"^again \(was stars\) +{CHUNKS - 1} +{CHUNKS - 1} +pgvector", restored.out, re.MULTILINE)
    assert rag.collection("again").count() == CHUNKS - 1

    pruned = command("prune", "--keep-last", 1, "--dry-run", "--json").json
    assert (pruned["kept"], pruned["removed"]) == ([full, changed["id"]], [])
    assert f"{full}: kept: {changed['id']}" in command("prune", "--keep-last", 1).out


def test_damage_is_a_finding(command: Commands) -> None:
    """A bit that flipped is named in a line of its own with status 1, and the listing remembers it."""
    made = command("create", "--json").json
    shard = next((command.repo / made["id"]).glob("*-chunks-*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    found = command("verify")
    assert found.status == 1
    assert re.search(rf"^{made['id']}/{shard.name}: \S", found.out, re.MULTILINE)
    assert "NOT good, 1 found wrong" in found.out
    listed = command("list")
    assert listed.status == 1
    assert "FAILED (hashes)" in listed.out
    assert command("restore", "--as", "again").status == 1
    assert command("list", "--json").json["backups"][0]["verified"]["last"]["ok"] is False


def test_what_cannot_be_used_is_listed_below(rag: retrieval.Ragstone, command: Commands) -> None:
    """An unfinished backup is told and no finding; a torn manifest is one, with what goes on from it."""
    full = command("create", "--json").json["id"]
    upsert(rag.collection("stars"), range(CHUNKS, CHUNKS + 1))
    child = command("create", "--incremental", "--json").json["id"]
    unfinished = command.repo / UNFINISHED
    unfinished.mkdir()
    (unfinished / "started.json").write_text("{}", encoding="utf-8")
    listed = command("list")
    assert (listed.status, listed.out.count(f"{UNFINISHED}: incomplete")) == (0, 1)

    manifest = command.repo / full / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    listed = command("list")
    assert listed.status == 1
    assert f"{full}/manifest.json: " in listed.out
    assert f"{child}: cannot be restored: it goes on from {full}" in listed.out
    assert command("list", "--json").json["backups"][0]["restorable"] is False
    assert command("prune", "--keep-last", 1).status == 1


def test_a_verification_is_remembered_in_the_corpus(rag: retrieval.Ragstone, command: Commands) -> None:
    """Its outcome, also a failure, is where /metrics finds it; a mistyped id is the caller's slip and no outcome."""
    command.repo.mkdir()
    assert command("verify").status == 2
    assert command("verify", UNFINISHED).status == 2
    [failed] = latest_runs(rag.database)
    assert (failed.kind, failed.depth, failed.ok, failed.repository) == ("verify", "hashes", False, str(command.repo))
    assert "no complete backup" in str(failed.problem)
    command("create")
    assert command("verify", "--depth", "sizes").status == 0
    good = {(run.kind, run.depth): run for run in latest_runs(rag.database) if run.ok}
    assert set(good) == {("create", None), ("verify", "sizes")}
    assert good["verify", "sizes"].chunks == CHUNKS


def test_a_verification_needs_no_corpus(command: Commands, tmp_path: Path) -> None:
    """Where there is no corpus the backup is verified all the same; a note says that the outcome is not kept."""
    command("create")
    found = command("verify", "--json", data=tmp_path / "nowhere")
    assert found.status == 0
    assert found.json["ok"] is True
    assert "not on /metrics" in found.err
    assert not (tmp_path / "nowhere").exists()


def test_a_corpus_that_is_away_fails_no_verification(command: Commands) -> None:
    """PostgreSQL out of reach is a note beside the result, without its password."""
    command("create")
    found = command("verify", data="postgresql://me:geheim@127.0.0.1:1/nowhere")
    assert found.status == 0
    assert "not on /metrics" in found.err
    assert "geheim" not in found.out + found.err


def test_secrets_are_not_shown(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither credentials in an address nor a key that is refused are in what is said."""
    for repo in ("s3://me:geheim@bucket/x", "gs://geheim@bucket", "ftp://me:geheim@host/x"):
        for words in (["list"], ["create"], ["verify"], ["restore"], ["prune", "--keep-last", "1"]):
            found = command(*words, repo=repo)
            assert found.status == 2, found.err
            assert "geheim" not in found.out + found.err
    monkeypatch.setenv("RAGSTONE_BACKUP_KEY", "geheim")
    found = command("list")
    assert found.status == 2
    assert "backup_key" in found.err
    assert "geheim" not in found.err


def test_another_key_is_refused(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key, a backup that was not signed by it is damaged to list and to verify."""
    made = command("create", "--json").json
    monkeypatch.setenv("RAGSTONE_BACKUP_KEY", "k" * 16)
    listed = command("list")
    assert listed.status == 1
    assert f"{made['id']}/manifest.json: " in listed.out
    assert command("verify").status == 1


def test_interrupted(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a backup is made ends with status 130 and leaves no backup."""

    def interrupt(_: object, __: Progress) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(showing._Lines, "__call__", interrupt)
        assert command("create").status == 130
    assert command("list", "--json").json["backups"] == []
    assert command("create").status == 0


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-25", datetime(2026, 11, 25, 23, 59, 59, 999_999, UTC)),
        ("20261125", datetime(2026, 11, 25, 23, 59, 59, 999_999, UTC)),
        ("2026-11-25T14:30", datetime(2026, 11, 25, 14, 30, tzinfo=UTC)),
        ("2026-11-25 14:30:15", datetime(2026, 11, 25, 14, 30, 15, tzinfo=UTC)),
        ("2026-11-25T14:30Z", datetime(2026, 11, 25, 14, 30, tzinfo=UTC)),
        ("2026-11-25T14:30+02:00", datetime(2026, 11, 25, 12, 30, tzinfo=UTC)),
    ],
)
def test_times(text: str, time: datetime) -> None:
    """A time without a zone is UTC, and a date alone is its end."""
    assert read_time(text) == time


@settings(max_examples=50)
@given(st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)), st.integers(-23, 23))
def test_any_time_in_any_zone(time: datetime, hours: int) -> None:
    """Whatever the zone, the instant is the one that was written."""
    here = time.replace(tzinfo=UTC)
    zone = (here + timedelta(hours=hours)).replace(tzinfo=None)
    assert read_time(f"{zone.isoformat()}{hours:+03}:00") == here


@settings(max_examples=50)
@given(st.text(max_size=20) | st.sampled_from(["2026-02-30", "0001-01-01T00:00+23:00", "9999-12-31T23:00-20:00"]))
def test_what_is_no_time_is_named(text: str) -> None:
    """Anything else is refused with what is needed, whatever it is."""
    with suppress(ValueError, OverflowError):
        datetime.fromisoformat(text).astimezone(UTC)
        return
    with pytest.raises(InvalidInput, match=r"--at: found .* ISO 8601"):
        read_time(text)


TOLD = [
    (101.0, Progress("writing", 0, 4_000, "chunks")),
    (103.0, Progress("writing", 1_000, 4_000, "chunks", 6.0)),
    (105.0, Progress("writing", 2_000, 4_000, "chunks", 4.0)),
    (106.0, Progress("writing", 3_000, 4_000, "chunks", 2.0)),
    (107.0, Progress("reading", 0, 8_000_000, "bytes")),
    (111.0, Progress("reading", 6_000_000, 8_000_000, "bytes", 75.0)),
]
"""What a watch is told, and when."""


def test_progress_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Off a terminal there is a line now and then: the phase, its share, its rate and the time left."""
    clock = iter([100.0, *(at_s for at_s, _ in TOLD for _ in range(2))])
    monkeypatch.setattr(showing.time, "monotonic", lambda: next(clock))
    with showing.showing(Output(), "beginning") as watch:
        for _, progress in TOLD:
            watch(progress)
    assert capsys.readouterr().err.splitlines() == [
        "50% writing: 2,000 of 4,000 chunks, 500 chunks/s, 4.0 s left",
        "75% reading: 6.0 MB of 8.0 MB, 1.5 MB/s, 1 min 15 s left",
    ]


def test_progress_on_a_terminal() -> None:
    """On a terminal a bar shows the same line, and is gone in the end."""
    output, screen = Output(), io.StringIO()
    output.notes = Console(file=screen, force_terminal=True, width=120)  # type: ignore[assignment]
    with showing.showing(output, "beginning") as watch:
        watch(Progress("writing", 1_000, 4_000, "chunks", 6.0))
    assert "beginning" in screen.getvalue()
    assert "writing: 1,000 of 4,000" in screen.getvalue()
    assert "25%" in screen.getvalue()


def test_the_page_of_the_format_reads_a_backup(rag: retrieval.Ragstone, command: Commands) -> None:
    """The example on the page, with pyarrow alone, gives the rows of a chain as they were at its snapshot."""
    command("create")
    stars = rag.collection("stars")
    stars.delete(ids=["star 3"])
    upsert(stars, range(CHUNKS, CHUNKS + 2))
    made = command("create", "--incremental", "--json").json["id"]
    page = (ROOT / "docs" / "backup-format.md").read_text(encoding="utf-8")
    example = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    for theirs, ours in (
        ('"/backups"', repr(str(command.repo))),
        ('"20261123T021500.217765Z-incremental"', repr(made)),
        ('"handbook"', '"stars"'),
    ):
        assert theirs in example
        example = example.replace(theirs, ours)
    found: dict[str, Any] = {}
    exec(compile(example, "backup-format.md", "exec"), found)
    expected = {f"star {number}": number for number in range(CHUNKS + 2) if number != 3}
    rows = found["rows"].to_pylist()
    assert {row["document_id"]: json.loads(row["metadata"])["n"] for row in rows} == expected
    assert len(rows) == len(expected)
    assert np.array_equal(found["embeddings"], np.eye(4)[[json.loads(row["metadata"])["n"] % 4 for row in rows]])
    assert set(found["rows"].column_names) == set(re.findall(r"`(\w+)`", _columns_of(page)))


def _columns_of(page: str) -> str:
    """The names in the first column of the page's table of columns."""
    table = page.split("| column | type | |")[1].split("\n\n")[0]
    return "\n".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|"))


def test_the_page_names_every_field_of_a_manifest(command: Commands) -> None:
    """No field is in a manifest that the page does not explain."""
    made = command("create", "--json").json["id"]
    manifest = json.loads((command.repo / made / "manifest.json").read_bytes())["manifest"]
    collection = manifest["collections"][0]
    page = (ROOT / "docs" / "backup-format.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`(\w+)`", page))
    assert {*manifest, *collection, *collection["files"][0]} <= explained


def test_the_readme_cron_lines_work_as_written(rag: retrieval.Ragstone, command: Commands, tmp_path: Path) -> None:
    """The four lines, run by sh in turn, leave a full and an incremental backup, the last one drilled."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\d+ \d+ \* \* \S+ +(\. /etc/ragstone\.env; .*)$", readme, re.MULTILINE)
    assert len(lines) == 4
    environment, log = tmp_path / "ragstone.env", tmp_path / "log"
    programs = tmp_path / "bin"
    programs.mkdir()
    logger = f"#!/bin/sh\ncat >> '{log}'\n"
    for name, text in (("ragstone", f'#!/bin/sh\nexec {sys.executable} -m ops.cli "$@"\n'), ("logger", logger)):
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    environment.write_text(
        f"export PATH={programs}:$PATH\nexport RAGSTONE_DATA={shlex.quote(command.data)}\n"
        f"export RAGSTONE_BACKUP_REPO={command.repo}\nexport RAGSTONE_BACKUP_KEY={'k' * 32}\n",
        encoding="utf-8",
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAGSTONE_")}
    nightly, weekly, drill, prune = (line.replace("/etc/ragstone.env", str(environment)) for line in lines)
    for line in (weekly, nightly, drill, prune):
        subprocess.run(["/bin/sh", "-c", line], env=clean | {"PYTHONPATH": str(ROOT)}, check=True, timeout=120)
    said = log.read_text(encoding="utf-8")
    assert "ragstone:" not in said
    assert f"stars: {CHUNKS} chunks restored into pgvector and all the same" in said
    assert "good (drill" in said
    kinds = [made.kind for made in backup.list_backups(str(command.repo), key="k" * 32).complete]
    assert kinds == ["full", "incremental"]
    assert {(run.kind, run.depth, run.ok) for run in latest_runs(rag.database)} == {
        ("create", None, True),
        ("verify", "drill", True),
    }
