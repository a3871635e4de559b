"""The whole circle: backed up, changed, backed up again, restored elsewhere: everything is there to the last bit."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import retrieval
from backends.corpus.collections import find_collection
from backends.corpus.database import Database
from backends.corpus.exporting import CorpusSnapshot, corpus_snapshot
from backends.types import Metric, Precision
from ops import backup
from ops.backup import creating
from retrieval import Collection, Ragstone
from retrieval.config import Settings
from tests.backup.subject import (
    DIMENSION,
    ODD_TEXTS,
    Row,
    articles,
    change,
    check_same,
    drawn,
    ids_of,
    make_own,
    make_papers,
    names,
    parents,
    put,
    rows_of,
    settled,
    shown,
)


def test_the_whole_circle(rag: Ragstone, elsewhere: Ragstone, repo: str) -> None:
    """Full, changed, incremental, and one without changes: each restores elsewhere to what was there at its time."""
    papers, own = make_papers(rag), make_own(rag)
    before = {name: rows_of(rag, name) for name in ("own", "papers")}
    assert {row.title for row in before["own"]} == {""}
    assert {row.content_hash for row in before["own"]} == {None}
    full = backup.create(rag, repo)
    change(papers, own)
    second = backup.create(rag, repo, incremental=True)
    third = backup.create(rag, repo, incremental=True)

    assert [made.kind for made in (full, second, third)] == ["full", "incremental", "incremental"]
    assert set(parents(second).values()) == {full.id}
    assert set(parents(third).values()) == {second.id}
    written = {one.name: one.written for one in second.collections}
    assert written["own"] == 20
    assert 40 <= written["papers"] < 100
    assert [one.written for one in third.collections] == [0, 0]
    assert backup.verify(repo).ok

    restored = backup.restore(elsewhere, repo)
    assert (restored.backup_id, elsewhere.collections()) == (third.id, ["own", "papers"])
    assert restored.replaced == []
    for name in ("own", "papers"):
        check_same(rag, name, elsewhere)
        papers_now = elsewhere.collection(name).info()
        assert (papers_now.indexed, papers_now.backend) == (True, "pgvector")
    query = articles(160, 1)[0].title
    assert shown(elsewhere.collection("papers").retrieve(query)) == shown(papers.retrieve(query))

    for name in ("own", "papers"):
        backup.restore(elsewhere, repo, full.id, collections=[name], as_name=f"{name}.then")
        assert rows_of(elsewhere, f"{name}.then") == before[name]


def test_at_a_time(rag: Ragstone, elsewhere: Ragstone, repo: str) -> None:
    """`at` takes the newest backup that is not newer, to the microsecond."""
    own = make_own(rag)
    made, states = [], []
    for number in range(3):
        put(own, names(number, 1), seed=100 + number)
        made.append(backup.create(rag, repo, incremental=number == 1))
        states.append(rows_of(rag, "own"))
    moments = [one.snapshot_at for one in made]
    wanted = {moments[0]: 0, moments[1] - timedelta(microseconds=1): 0, moments[1]: 1, moments[2] + timedelta(1): 2}
    for number, (moment, expected) in enumerate(wanted.items()):
        found = backup.restore(elsewhere, repo, at=moment, as_name=f"at{number}")
        assert (found.backup_id, found.snapshot_at) == (made[expected].id, moments[expected])
        assert rows_of(elsewhere, f"at{number}") == states[expected]


def test_only_some_collections(rag: Ragstone, elsewhere: Ragstone, repo: str) -> None:
    """A backup of one collection holds that one, an incremental finds each one's own newest, and one is restored."""
    papers, own = make_papers(rag), make_own(rag)
    both = backup.create(rag, repo)
    put(own, names(0, 3), seed=8)
    only = backup.create(rag, repo, incremental=True, collections=["own"])
    assert parents(only) == {"own": both.id}
    papers.delete(ids=["a0000"])
    last = backup.create(rag, repo, incremental=True)
    assert parents(last) == {"own": only.id, "papers": both.id}
    assert backup.verify(repo).ok

    backup.restore(elsewhere, repo, collections=["papers"])
    assert elsewhere.collections() == ["papers"]
    check_same(rag, "papers", elsewhere)
    backup.restore(elsewhere, repo, last.id, collections=["own"])
    check_same(rag, "own", elsewhere)


def test_in_the_place_of_another(rag: Ragstone, repo: str, soon: None) -> None:
    """With `replace` the collection is again what it was, and the one that it was since is gone, with its tables."""
    own = make_own(rag)
    before = rows_of(rag, "own")
    put(rag.create_collection("absent", dimension=DIMENSION), names(0, 3), seed=1)
    backup.create(rag, repo)
    rag.delete_collection("absent")
    own.delete_all()
    put(own, ["d0"], seed=9)
    old = own.id
    restored = backup.restore(rag, repo, replace=["absent", "own"])
    assert restored.replaced == ["own"]
    assert rag.collections() == ["absent", "own"]
    assert rows_of(rag, "own") == before
    assert rag.collection("own").id != old
    with rag.database.connection() as connection:
        left = connection.execute(
            "SELECT tablename FROM pg_tables WHERE tablename = ANY(%s)", [[f"chunk_{old}", f"embedding_{old}"]]
        ).fetchall()
    assert left == []


def test_into_faiss_and_back(rag: Ragstone, elsewhere: Ragstone, repo: str, tmp_path: Path, soon: None) -> None:
    """From pgvector into FAISS, backed up there, and back into pgvector: the same rows and hits all the way."""
    papers, own = make_papers(rag), make_own(rag)
    backup.create(rag, repo)
    there = backup.restore(elsewhere, repo, backend="faiss")
    assert [one.backend for one in there.collections] == ["faiss", "faiss"]
    for collection in (papers, own):
        check_same(rag, collection.name, elsewhere)
        query = drawn(1, 3, collection.info().dimension)[0]
        assert elsewhere.collection(collection.name).search_with_timings(query).backend == "faiss"
        assert elsewhere.collection(collection.name).info().pinned_backend == "faiss"

    again = str(tmp_path / "again")
    backup.create(elsewhere, again)
    back = backup.restore(rag, again, backend="pgvector", replace=["own", "papers"])
    assert [one.backend for one in back.collections] == ["pgvector", "pgvector"]
    for name in ("own", "papers"):
        check_same(elsewhere, name, rag)
        assert rag.collection(name).info().backend == "pgvector"


@pytest.mark.parametrize(
    ("metric", "precision"), [("l2", "single"), ("inner_product", "single"), ("inner_product", "half"), ("l2", "half")]
)
def test_every_metric_and_precision(
    rag: Ragstone, elsewhere: Ragstone, repo: str, metric: Metric, precision: Precision
) -> None:
    """The embeddings are the same to the last bit, also those at the end of what the precision can hold."""
    collection = rag.create_collection("c", dimension=DIMENSION, metric=metric, precision=precision)
    put(collection, names(0, 120), seed=1)
    kept = np.finfo(np.float16 if precision == "half" else np.float32)
    if metric == "l2":
        ends = np.full((2, DIMENSION), kept.smallest_subnormal, np.float32)
        ends[1, 0] = -0.0
        collection.upsert_embeddings(["small", "zero"], ends, ["a", "b"])
    backup.create(rag, repo)
    backup.restore(elsewhere, repo)
    check_same(rag, "c", elsewhere)


def test_empty_collections(rag: Ragstone, elsewhere: Ragstone, repo: str) -> None:
    """One that never held anything, one whose documents are all deleted, and a corpus without any: all restore."""
    assert backup.create(rag, repo).collections == []
    assert backup.restore(elsewhere, repo).collections == []
    rag.create_collection("texts")
    emptied = rag.create_collection("emptied", dimension=DIMENSION)
    put(emptied, names(0, 10), seed=1)
    full = backup.create(rag, repo)
    emptied.delete_all()
    made = backup.create(rag, repo, incremental=True)
    assert parents(made) == {"emptied": full.id, "texts": full.id}
    backup.restore(elsewhere, repo)
    for name in ("texts", "emptied"):
        assert rows_of(elsewhere, name) == []
        assert settled(find_collection(elsewhere.database, name)) == settled(find_collection(rag.database, name))
    elsewhere.collection("texts").upsert(articles(0, 2))
    assert elsewhere.collection("texts").count() == 2


def test_an_incremental_without_an_earlier_one_is_full(rag: Ragstone, repo: str) -> None:
    """The first backup is complete whatever was asked for, and so is that of a collection that is new."""
    make_own(rag)
    first = backup.create(rag, repo, incremental=True)
    assert (first.kind, parents(first)) == ("full", {"own": None})
    put(rag.create_collection("new", dimension=DIMENSION), names(0, 5), seed=1)
    second = backup.create(rag, repo, incremental=True)
    assert (second.kind, parents(second)) == ("incremental", {"new": None, "own": first.id})


def test_a_new_collection_of_the_same_name(rag: Ragstone, elsewhere: Ragstone, repo: str) -> None:
    """One that was deleted and made anew has nothing in common with what was backed up: it is complete."""
    make_own(rag)
    first = backup.create(rag, repo)
    rag.delete_collection("own")
    rag.create_collection("own", dimension=8, metric="l2").upsert_embeddings(["d1"], drawn(1, 1, 8), ["new"])
    second = backup.create(rag, repo, incremental=True)
    assert parents(second) == {"own": None}
    backup.restore(elsewhere, repo)
    check_same(rag, "own", elsewhere)
    backup.restore(elsewhere, repo, first.id, as_name="old")
    assert elsewhere.collection("old").count() == len(ODD_TEXTS) + 200


def test_a_damaged_parent_is_passed_over(rag: Ragstone, elsewhere: Ragstone, repo: str) -> None:
    """Where the newest backup's runs cannot be read, the incremental goes on from the one before."""
    own = make_own(rag)
    first = backup.create(rag, repo)
    put(own, names(0, 3), seed=8)
    second = backup.create(rag, repo, incremental=True)
    live = Path(repo, second.id, f"c{own.id}-live.parquet")
    live.write_bytes(live.read_bytes()[:-1] + b"?")
    put(own, names(3, 3), seed=9)
    third = backup.create(rag, repo, incremental=True)
    assert parents(third) == {"own": first.id}
    backup.restore(elsewhere, repo)
    check_same(rag, "own", elsewhere)


def test_a_chain_that_was_found_wrong_is_not_gone_on_with(rag: Ragstone, repo: str) -> None:
    """What a verification of a later backup found wrong in its parent is no parent any more, until that is proven."""
    own = make_own(rag)
    first = backup.create(rag, repo)
    put(own, names(0, 3), seed=8)
    second = backup.create(rag, repo, incremental=True)
    shard = Path(repo, first.id, f"c{own.id}-chunks-000001.parquet")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"?")
    assert not backup.verify(repo, second.id).ok
    third = backup.create(rag, repo, incremental=True)
    assert (third.kind, parents(third)) == ("full", {"own": None})
    shard.write_bytes(whole)
    assert backup.verify(repo, second.id).ok
    put(own, names(3, 3), seed=9)
    assert parents(backup.create(rag, repo, incremental=True)) == {"own": third.id}


def test_a_corpus_that_was_rewound(tmp_path: Path, settings: Settings, elsewhere: Ragstone, repo: str) -> None:
    """Put back to before a backup, as by a volume's snapshot, a corpus does not go on from that one: it gives the
    ids that are in it to other chunks.
    """
    data, kept = tmp_path / "data", tmp_path / "kept"
    with retrieval.open(data, settings=settings) as rag:
        put(rag.create_collection("c", dimension=DIMENSION), names(0, 30), seed=1)
        first = backup.create(rag, repo)
    shutil.copytree(data, kept)
    with retrieval.open(data, settings=settings) as rag:
        put(rag.collection("c"), names(30, 30), seed=2)
        lost = backup.create(rag, repo, incremental=True)
        lost_ids = set(ids_of(rag, "c"))
    shutil.rmtree(data)
    kept.rename(data)
    with retrieval.open(data, settings=settings) as rag:
        put(rag.collection("c"), names(50, 40), seed=3)
        assert len(set(ids_of(rag, "c")) & lost_ids) > 30  # the same ids, other chunks
        made = backup.create(rag, repo, incremental=True)
        assert parents(lost) == parents(made) == {"c": first.id}
        backup.restore(elsewhere, repo)
        check_same(rag, "c", elsewhere)
        put(rag.collection("c"), names(0, 5), seed=4)
        last = backup.create(rag, repo, incremental=True)
        assert parents(last) == {"c": made.id}
        backup.restore(elsewhere, repo, last.id, as_name="last")
        check_same(rag, "c", elsewhere, "last")


def test_a_clock_that_was_set_back(
    rag: Ragstone, elsewhere: Ragstone, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup does not go on from one that is of a later time by its name: no chain could be followed."""
    own = make_own(rag)
    backup.create(rag, repo)
    put(own, names(0, 3), seed=8)

    @contextmanager
    def an_hour_ago(database: Database) -> Iterator[CorpusSnapshot]:
        with corpus_snapshot(database) as snapshot:
            yield replace(snapshot, taken_at=snapshot.taken_at - timedelta(hours=1))

    monkeypatch.setattr(creating, "corpus_snapshot", an_hour_ago)
    made = backup.create(rag, repo, incremental=True)
    assert (made.kind, parents(made)) == ("full", {"own": None})
    backup.restore(elsewhere, repo, made.id)
    check_same(rag, "own", elsewhere)


IDS = st.sets(st.integers(0, 11), min_size=1, max_size=6)
STEPS = st.one_of(
    st.tuples(st.just("write"), IDS, st.integers(0, 3)),
    st.tuples(st.just("metadata"), IDS, st.integers(0, 3)),
    st.tuples(st.just("delete"), IDS, st.none()),
    st.tuples(st.just("backup"), st.booleans(), st.none()),
)
Model = dict[str, tuple[str, str, dict[str, Any]]]


@hypothesis.settings(
    max_examples=8, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(story=st.lists(STEPS, min_size=4, max_size=14))
def test_every_backup_of_a_story(rag: Ragstone, tmp_path: Path, story: list[Any]) -> None:
    """Whatever was written and deleted between full and incremental backups, each restores to what it was then."""
    name = f"story{uuid4().hex}"
    repo = str(tmp_path / name)
    collection = rag.create_collection(name)
    model: Model = {}
    then: dict[str, tuple[Model, list[Row]]] = {}
    for kind, what, seed in [*story, ("backup", True, None)]:
        if kind == "backup":
            made = backup.create(rag, repo, incremental=what, collections=[name])
            then[made.id] = dict(model), rows_of(rag, name)
        else:
            _write(collection, model, kind, what, seed)
    assert [made.id for made in backup.list_backups(repo).complete] == list(then)
    for backup_id, (documents, rows) in then.items():
        backup.restore(rag, repo, backup_id, as_name=f"{name}.again")
        found = rag.collection(f"{name}.again").documents(1_000)
        assert {one.id: (one.title, one.text, one.metadata) for one in found} == documents
        assert rows_of(rag, f"{name}.again") == rows
        rag.delete_collection(f"{name}.again")
    rag.delete_collection(name)


def _write(collection: Collection, model: Model, kind: str, numbers: set[int], seed: int) -> None:
    """Do one step to a collection, and to what it must be afterwards."""
    ids = [f"a{number:04}" for number in sorted(numbers)]
    if kind == "delete":
        assert collection.delete(ids=ids) == len(model.keys() & set(ids))
        for id_ in ids:
            model.pop(id_, None)
        return
    if kind == "metadata":
        new = {id_: (*model[id_][:2], {"seed": seed}) for id_ in ids if id_ in model}
    else:
        made = (articles(number, 1, seed)[0] for number in sorted(numbers))
        new = {one.id: (one.title, one.text, one.metadata) for one in made}
    collection.upsert(
        [retrieval.Document(id=id_, title=title, text=text, metadata=own) for id_, (title, text, own) in new.items()]
    )
    model |= new
