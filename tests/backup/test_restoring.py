"""Restores that are refused, interrupted, or meet somebody else: nothing half is ever seen, and nothing is lost."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from backends.corpus.collections import find_collection
from backends.errors import (
    BackupDamaged,
    BackupNotFound,
    CollectionExists,
    CollectionNotFound,
    InvalidInput,
    InvalidName,
    InvalidSettings,
    RagstoneError,
)
from ops import backup
from ops.backup import shards
from ops.backup.manifest import ShardFile, file_name, new_id
from ops.backup.progress import Progress
from ops.backup.repository import Repository
from retrieval import Ragstone
from retrieval.service import create_app
from tests.backup.made import NOON, chunk_rows, entry_of, put_manifest, put_runs
from tests.backup.subject import (
    DIMENSION,
    DOCUMENTS,
    articles,
    check_same,
    drawn,
    hidden,
    ids_of,
    names,
    put,
    tables,
)
from tests.service.serving import served

REFUSED: dict[str, tuple[dict[str, Any], type[RagstoneError], str]] = {
    "there already": ({}, CollectionExists, "--replace own"),
    "a collection that no backup has": ({"collections": ["own", "none"]}, BackupNotFound, "with none, own"),
    "several under one name": ({"as_name": "other"}, InvalidInput, "found 2 collections"),
    "a name that nobody may give": ({"collections": ["own"], "as_name": ".restoring"}, InvalidName, "name"),
    "a name that is taken": ({"collections": ["second"], "as_name": "own"}, CollectionExists, "own"),
    "replace what is not restored": ({"collections": ["own"], "replace": ["second"]}, InvalidInput, "'second'"),
    "unknown backend": ({"replace": ["own", "second"], "backend": "mongo"}, InvalidInput, "'mongo'"),
    "a backend for tests": ({"replace": ["own", "second"], "backend": "memory"}, InvalidInput, "'memory'"),
    "backend not configured": ({"replace": ["own", "second"], "backend": "weaviate"}, InvalidSettings, "weaviate_url"),
    "no such backup": ({"backup_id": new_id(NOON, "full")}, BackupNotFound, new_id(NOON, "full")),
    "no backup's id": ({"backup_id": "../../etc"}, BackupNotFound, "etc"),
    "before the first": ({"at": datetime(2020, 1, 1, tzinfo=UTC)}, BackupNotFound, "2020"),
    "a time without a zone": ({"at": datetime(2020, 1, 1)}, InvalidInput, "zone"),
    "a backup and a time": ({"backup_id": new_id(NOON, "full"), "at": NOON}, InvalidInput, "--at"),
    "no collections": ({"collections": []}, InvalidInput, "collections"),
    "no jobs": ({"jobs": 0}, InvalidInput, "jobs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_loaded(
    rag: Ragstone, own: backup.Backup, repo: str, files_loaded: list[str], case: str
) -> None:
    """What cannot come to a good end is told at once, and leaves nothing behind."""
    put(rag.create_collection("second", dimension=DIMENSION), names(0, 5), seed=2)
    backup.create(rag, repo)
    before = tables(rag)
    given, error, says = REFUSED[case]
    with pytest.raises(error) as raised:
        backup.restore(rag, repo, **given)
    assert says in str(raised.value)
    assert (files_loaded, hidden(rag), tables(rag)) == ([], [], before)


def test_a_collection_that_the_backup_lacks(rag: Ragstone, own: backup.Backup, repo: str) -> None:
    """Asked of one backup, a collection that is not in it is told of with those that are."""
    with pytest.raises(CollectionNotFound, match=r"'none'; it has own"):
        backup.restore(rag, repo, own.id, collections=["none"])
    assert hidden(rag) == []


def test_a_repository_that_is_not_there(rag: Ragstone, tmp_path: Path) -> None:
    """A folder that is missing or empty is told of, not made."""
    with pytest.raises(InvalidInput, match="there is no folder"):
        backup.restore(rag, str(tmp_path / "slip"))
    assert not (tmp_path / "slip").exists()
    with pytest.raises(BackupNotFound, match="no complete backup"):
        backup.restore(rag, str(tmp_path))


def test_nothing_is_seen_before_the_end(rag: Ragstone, elsewhere: Ragstone, own: backup.Backup, repo: str) -> None:
    """While it is loaded and indexed, a collection has no name, in the library and over HTTP."""
    with served(create_app(elsewhere)) as url, httpx.Client(base_url=url) as client:
        phases = set()

        def watch(progress: Progress) -> None:
            phases.add(progress.phase.split()[0])
            [staged] = hidden(elsewhere)
            assert elsewhere.collections() == []
            for name, error in (("own", CollectionNotFound), (staged, InvalidName)):
                with pytest.raises(error):
                    elsewhere.collection(name)
            assert client.get("/v1/collections").json()["collections"] == []
            assert client.get(f"/v1/collections/{staged}").status_code in (404, 422)
            assert "restoring" not in client.get("/health/ready").text + client.get("/metrics").text

        backup.restore(elsewhere, repo, watch=watch, backend="faiss")
        assert "loading" in phases
        assert [one["name"] for one in client.get("/v1/collections").json()["collections"]] == ["own"]


LAYOUT = """
    SELECT 'column', a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' '
           || a.attstorage::text || ' ' || a.attcollation || ' ' || a.attnum
    FROM pg_attribute a WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL SELECT 'constraint', c.conname || ' ' || pg_get_constraintdef(c.oid)
    FROM pg_constraint c WHERE c.conrelid = %(table)s::regclass
    UNION ALL SELECT 'index', pg_get_indexdef(i.indexrelid) || ' ' || i.indisvalid || ' ' || i.indisready
    FROM pg_index i WHERE i.indrelid = %(table)s::regclass
    UNION ALL SELECT 'table', concat_ws(' ', r.relpersistence, r.relkind, r.reloptions)
    FROM pg_class r WHERE r.oid = %(table)s::regclass
    ORDER BY 1, 2
"""


def layout(rag: Ragstone, name: str) -> list[tuple[str, str]]:
    """Columns, constraints and indexes of a collection's tables, with `N` for its number."""
    number = find_collection(rag.database, name).id
    with rag.database.connection() as connection:
        rows = [
            row
            for table in ("chunk", "embedding")
            for row in connection.execute(LAYOUT, {"table": f"ragstone.{table}_{number}"}).fetchall()
        ]
    return [(kind, text.replace(f"_{number}", "_N")) for kind, text in rows]


@pytest.mark.parametrize("precision", ["half", "single"])
def test_tables_are_those_of_a_created_collection(
    rag: Ragstone, elsewhere: Ragstone, repo: str, precision: Any
) -> None:
    """Columns, constraints and indexes of a restored collection are the ones that it had."""
    collection = rag.create_collection("c", dimension=DIMENSION, precision=precision)
    put(collection, names(0, 150), seed=1)
    collection.wait_until_indexed()
    backup.create(rag, repo)
    backup.restore(elsewhere, repo)
    found = layout(elsewhere, "c")
    assert found == layout(rag, "c")
    assert len([kind for kind, _ in found if kind == "index"]) == 5  # three keys, HNSW and GIN


def test_a_restored_collection_can_be_used(rag: Ragstone, repo: str) -> None:
    """It is written, searched, filtered and deleted from as ever, beside the one that it came from."""
    papers = rag.create_collection("papers")
    papers.upsert(articles(0, 120))
    backup.create(rag, repo)
    backup.restore(rag, repo, as_name="again")
    again = rag.collection("again")
    assert set(ids_of(rag, "papers")).isdisjoint(ids_of(rag, "again"))
    before = find_collection(rag.database, "again")

    assert again.upsert(articles(0, 10)).unchanged == 10
    again.upsert(articles(0, 10, edition=2) + articles(200, 5))
    assert again.delete(ids=["a0050", "a0051"]) == 2
    assert again.delete(filter={"year": 1990 + 17}) == len([n for n in range(120) if n % 30 == 17])
    expected = {article.id: article for article in articles(0, 120)}
    expected |= {article.id: article for article in articles(0, 10, edition=2) + articles(200, 5)}
    for id_ in ("a0050", "a0051", "a0017", "a0047", "a0077", "a0107"):
        del expected[id_]
    assert {one.id: one for one in again.documents(1_000)} == expected
    after = find_collection(rag.database, "again")
    assert (after.documents, after.sequence) == (len(expected), before.sequence + 3)
    assert set(ids_of(rag, "papers")).isdisjoint(ids_of(rag, "again"))
    again.wait_until_indexed()
    for article in (articles(202, 1)[0], articles(3, 1, edition=2)[0]):
        assert again.retrieve(f"{article.title} {article.text}")[0].document_id == article.id
    assert papers.count() == 120
    rag.delete_collection("again")
    assert rag.collections() == ["papers"]


def test_replaced_while_it_is_used(rag: Ragstone, own: backup.Backup, repo: str) -> None:
    """Readers and writers meet the old collection, then the new one, in between at most that there is none for a
    moment; no answer is a mixture.
    """
    rag.collection("own").delete_all()
    old, new = set(names(1_000, DOCUMENTS)), set(names(0, DOCUMENTS))
    put(rag.collection("own"), sorted(old), seed=2)
    query = drawn(1, 5)[0]
    seen: list[str] = []
    failures: list[BaseException] = []
    stopping = threading.Event()

    def read(number: int) -> None:
        hits = rag.collection("own").search(query, 20)
        found = {hit.document_id for hit in hits}
        assert len(found) == 20
        assert found <= old or found <= new
        seen.append("old" if found <= old else "new")

    def write(number: int) -> None:
        rag.collection("own").upsert_embeddings([f"w{number}"], -100 * query[None], ["far away"])

    def repeat(work: Callable[[int], None]) -> None:
        for number in range(20_000):
            if stopping.wait(0.005):
                return
            try:
                work(number)
            except CollectionNotFound:
                seen.append("none")
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=repeat, args=(work,)) for work in (read, write)]
    for thread in threads:
        thread.start()
    try:
        backup.restore(rag, repo, replace=["own"])
        time.sleep(0.1)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert failures == []
    known = [one for one in seen if one != "none"]
    assert known == sorted(known, reverse=True)  # old, then new
    assert {"old", "new"} == set(known)
    assert seen.count("none") < len(seen) / 10
    assert tables(rag) == 2


@pytest.mark.parametrize("place", [100, -100])
def test_a_damaged_file_is_refused(
    rag: Ragstone, elsewhere: Ragstone, own: backup.Backup, repo: str, place: int
) -> None:
    """One bit in one file: the restore names it, and nothing can be seen or is left."""
    file = f"{own.id}/c{rag.collection('own').id}-chunks-000007.parquet"
    path = Path(repo, file)
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    with pytest.raises(BackupDamaged, match="SHA-256") as raised:
        backup.restore(elsewhere, repo)
    assert raised.value.file == file
    assert (elsewhere.collections(), hidden(elsewhere), tables(elsewhere)) == ([], [], 0)
    path.unlink()
    with pytest.raises(BackupDamaged, match="missing") as raised:
        backup.restore(elsewhere, repo)
    assert raised.value.file == file
    data[place] ^= 4
    path.write_bytes(data)
    backup.restore(elsewhere, repo)
    check_same(rag, "own", elsewhere)


HOSTILE: dict[str, dict[str, str | int]] = {
    "no JSON": {"metadata": '{"a": }'},
    "two values": {"metadata": "{} {}"},
    "NUL in JSON": {"metadata": '{"a": "\\u0000"}'},
    "half a surrogate": {"metadata": '{"a": "\\ud800"}'},
    "a number without end": {"metadata": '{"a": 1e999999}'},
    "nested without end": {"metadata": '{"a": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}"},
    "a document twice": {"document_id": "d1"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_postgresql_does_not_take(elsewhere: Ragstone, repo: str, case: str) -> None:
    """A backup with right hashes and values that no corpus gave is damaged, not a fault of PostgreSQL's."""
    backup_id = put_hostile(repo, **HOSTILE[case])
    with pytest.raises(BackupDamaged) as raised:
        backup.restore(elsewhere, repo)
    assert raised.value.file.startswith(backup_id)
    assert (elsewhere.collections(), hidden(elsewhere), tables(elsewhere)) == ([], [], 0)


def put_hostile(repo: str, **values: str | int) -> str:
    """Write a backup of five chunks that is right in itself, with other values in the row of id 3; returns its id."""
    Path(repo).mkdir()
    repository = Repository.open(repo)
    ids = [1, 2, 3, 4, 5]
    rows = chunk_rows(ids)
    for name, value in values.items():
        column = rows.column(name).to_pylist()
        column[2] = value
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(column, rows.schema.field(at).type))
    backup_id, name = new_id(NOON, "full"), file_name(7, "chunks")
    with repository.writing(backup_id, name) as sink:
        shards.write_chunks(sink, rows.schema, [rows])
    file = ShardFile(
        name=name, kind="chunks", rows=5, size_bytes=sink.size_bytes, sha256=sink.sha256, first_id=1, last_id=5
    )
    files = [file, put_runs(repository, backup_id, 7, "live", ids)]
    return put_manifest(repository, [entry_of(files, ids, None)], NOON).id
