"""Backups through the real command: the whole circle, exit statuses, and SIGKILL in the middle."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

import retrieval
from backends.corpus.collections import find_collection
from ops import backup
from retrieval.config import load
from tests.acceptance.command import Done, Ragstone, wait_for
from tests.backup.subject import DIMENSION, articles, check_same, drawn, folders, names, put

WITHIN_S = 60.0
SMALL = {"index_min_chunks": 100, "chunk_tokens": 48, "chunk_overlap_tokens": 8, "ef_search": 1_000}
HERE = load(embedding_model="hashing", **SMALL)
THERE = {f"RAGSTONE_{name.upper()}": str(value) for name, value in SMALL.items()}
NOBODY = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "made-up",
    "AWS_SECRET_ACCESS_KEY": "made-up-too",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
}
QUERIES = [article.title for article in articles(0, 200)[::20]]


def write_corpus(path: Path, first: int, count: int, edition: int = 1) -> Path:
    """Write a corpus file as scifact has it: an id, a title and a text in each line."""
    lines = [
        {"_id": one.id, "title": one.title, "text": one.text, "metadata": one.metadata}
        for one in articles(first, count, edition)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def backed_up(command: Ragstone, repo: Path, *more: str) -> Any:
    """Make a backup, which must be fine, and return its JSON."""
    return fine(command("backup", "create", "--repo", repo, *more, "--json")).json


def fine(done: Done) -> Done:
    assert done.status == 0, done.err
    return done


def hits(command: Ragstone, rag: retrieval.Ragstone, collection: str) -> list[tuple[Any, ...]]:
    """What the command retrieves for one query, and the library for more, with scores within 1e-6."""
    found = fine(command("retrieve", collection, QUERIES[0], "--json")).json["results"]
    for query in QUERIES:
        found += [asdict(hit) for hit in rag.collection(collection).retrieve(query)]
    return [(hit["id"], hit["text"], hit["title"], hit["metadata"], near(hit["score"])) for hit in found]


def near(score: float) -> Any:
    return pytest.approx(score, abs=1e-6)


def test_the_whole_circle(tmp_path: Path) -> None:
    """Ingested, backed up, changed, backed up again, the data lost: after a restore every answer is as before."""
    command, repo = Ragstone(tmp_path / "data", THERE), tmp_path / "backups"
    with retrieval.open(tmp_path / "data", settings=HERE) as rag:
        assert command.ingest("papers", write_corpus(tmp_path / "1.jsonl", 0, 150))["upserted"] == 150
        put(rag.create_collection("gone", dimension=DIMENSION), names(0, 20), seed=1)
        full = backed_up(command, repo)
        command.ingest("papers", write_corpus(tmp_path / "2.jsonl", 140, 30, edition=2))
        fine(command("collections", "delete", "gone", "--yes"))
        with command.serving() as server:
            deleted = httpx.delete(f"{server.url}/v1/collections/papers/documents/a0020")
            assert deleted.status_code in (200, 204)
            last = backed_up(command, repo, "--incremental")
        before = hits(command, rag, "papers")

    assert (full["kind"], last["kind"]) == ("full", "incremental")
    [papers] = last["collections"]
    assert (papers["name"], papers["parent"], papers["documents"]) == ("papers", full["id"], 169)
    assert 30 <= papers["written"] < 90 < papers["chunks"]
    verified = fine(command("backup", "verify", "--repo", repo, "--json")).json
    assert (verified["backup_id"], verified["ok"], verified["problems"]) == (last["id"], True, [])
    listed = fine(command("backup", "list", "--repo", repo, "--json")).json
    assert [one["id"] for one in listed["backups"]] == [full["id"], last["id"]]
    assert (listed["incomplete"], listed["damaged"]) == ([], [])

    shutil.rmtree(tmp_path / "data")
    restored = fine(command("backup", "restore", "--repo", repo, "--json")).json
    assert [(one["name"], one["documents"]) for one in restored["collections"]] == [("papers", 169)]
    with retrieval.open(tmp_path / "data", settings=HERE) as rag:
        assert rag.collections() == ["papers"]
        assert hits(command, rag, "papers") == before
        faiss = ("--collection", "papers", "--as", "fast", "--backend", "faiss")
        fine(command("backup", "restore", "--repo", repo, *faiss))
        assert rag.collection("fast").info().backend == "faiss"
        assert hits(command, rag, "fast") == before
        fine(command("backup", "restore", full["id"], "--repo", repo, "--collection", "gone"))
        assert rag.collection("gone").count() == 20


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> Iterator[retrieval.Ragstone]:
    """A folder of these tests' own, held open, so that PostgreSQL starts once."""
    data = tmp_path_factory.mktemp("backups") / "data"
    with retrieval.open(data, settings=HERE) as opened:
        yield opened


@pytest.fixture
def command(rag: retrieval.Ragstone) -> Iterator[Ragstone]:
    """The command on that folder, which every test leaves without collections."""
    yield Ragstone(rag.settings.data, THERE)
    for name in rag.collections():
        rag.delete_collection(name)


@pytest.fixture
def filled(rag: retrieval.Ragstone, command: Ragstone) -> None:
    """Three collections of 120 documents."""
    for name in ("a", "b", "c"):
        put(rag.create_collection(name, dimension=DIMENSION), names(0, 120), seed=1)


def test_exit_statuses(rag: retrieval.Ragstone, command: Ragstone, filled: None, tmp_path: Path) -> None:
    """1 where a verification finds damage, 2 where the caller can mend it, 3 where the repository is away."""
    repo = tmp_path / "backups"
    made = backup.create(rag, str(repo))
    [path] = Path(repo, made.id).glob(f"c{rag.collection('a').id}-chunks-*.parquet")
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    file = f"{made.id}/{path.name}"

    found = command("backup", "verify", "--repo", repo, "--json")
    assert (found.status, [problem["file"] for problem in found.json["problems"]]) == (1, [file])
    restore = ("backup", "restore", "--repo", repo, "--json")
    refused = command(*restore, "--collection", "a", "--as", "again")
    assert (refused.status, refused.json["error"]["code"]) == (1, "backup_damaged")
    assert file in refused.err
    refused = command(*restore)
    assert (refused.status, refused.json["error"]["code"]) == (2, "collection_exists")

    away = command("backup", "create", "--repo", "s3://vault/daily", "--json", **NOBODY)
    assert (away.status, away.json["error"]["code"]) == (3, "repository_unavailable"), away.err
    assert "made-up-too" not in away.out + away.err


def test_a_killed_backup_is_none(rag: retrieval.Ragstone, command: Ragstone, filled: None, tmp_path: Path) -> None:
    """SIGKILL after some files: the earlier backup is untouched, the unfinished one is shown as such and goes with
    the next one.
    """
    repo = tmp_path / "backups"
    first = backup.create(rag, str(repo)).id
    with locked_embeddings(rag, "c"):
        process = command.start("backup", "create", "--repo", repo)
        assert wait_for(lambda: len(list(repo.glob("*/*-chunks-*.parquet"))) == 5, WITHIN_S), process.communicate()
        kill(process)
    [killed] = set(folders(str(repo))) - {first}
    listed = fine(command("backup", "list", "--repo", repo, "--json")).json
    assert ([one["id"] for one in listed["backups"]], listed["incomplete"]) == ([first], [killed])
    assert fine(command("backup", "verify", "--repo", repo, "--json")).json["backup_id"] == first
    unfinished = command("backup", "restore", killed, "--repo", repo, "--json")
    assert (unfinished.status, unfinished.json["error"]["code"]) == (2, "backup_not_found")
    last = backed_up(command, repo, "--incremental")
    assert {one["parent"] for one in last["collections"]} == {first}
    assert folders(str(repo)) == [first, last["id"]]


@contextmanager
def locked_embeddings(rag: retrieval.Ragstone, name: str) -> Iterator[None]:
    """Let whoever reads a collection's embeddings wait: a backup has planned by then, and written what came before."""
    table = sql.Identifier("ragstone", f"embedding_{find_collection(rag.database, name).id}")
    with rag.database.transaction() as connection:
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
        yield


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == -signal.SIGKILL


def test_a_killed_restore_goes_on(rag: retrieval.Ragstone, command: Ragstone, tmp_path: Path) -> None:
    """SIGKILL after some files: nothing is seen of it, and the next restore loads only the rest."""
    repo = tmp_path / "backups"
    collection = rag.create_collection("c", dimension=DIMENSION)
    for number in range(5):
        put(collection, names(100 * number, 110), seed=number)
        backup.create(rag, str(repo), incremental=True)
    restore = ("backup", "restore", "--repo", repo, "--as", "again", "--jobs", 1)
    with slow_loads(rag):
        process = command.start(*restore)
        assert wait_for(lambda: len(loaded(rag)) >= 2, WITHIN_S), process.communicate()
        kill(process)
    before = loaded(rag)
    assert 2 <= len(before) < 5
    assert rag.collections() == ["c"]
    assert [one["name"] for one in fine(command("collections", "list", "--json")).json["collections"]] == ["c"]
    fine(command(*restore, "--json"))
    assert {(rag.collection("again").id, file) for _, file in before} == set(before)  # the one that was begun
    check_same(rag, "c", rag, "again")
    query = drawn(1, 7)[0]
    assert len(rag.collection("again").search(query, 10)) == 10
    assert loaded(rag) == []


@contextmanager
def slow_loads(rag: retrieval.Ragstone) -> Iterator[None]:
    """Let each file take a while to load."""
    with psycopg.connect(rag.database.conninfo, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END'"
        )
        connection.execute(
            "CREATE TRIGGER slowly BEFORE INSERT ON ragstone.restored_shard FOR EACH ROW EXECUTE FUNCTION slowly()"
        )
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION slowly CASCADE")


def loaded(rag: retrieval.Ragstone) -> list[tuple[int, str]]:
    """The files that were loaded into collections that are being restored."""
    with rag.database.connection() as connection:
        return connection.execute("SELECT collection_id, file FROM ragstone.restored_shard").fetchall()
