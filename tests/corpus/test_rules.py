"""The rules that make the corpus true: each test fails when its rule is broken."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psycopg
import pytest

from backends.corpus.collections import BUILD_LOCK_SPACE, CollectionState, find_collection, identity
from backends.corpus.database import Database
from backends.corpus.following import bring_up_to_date, changes_after, snapshot
from backends.corpus.writing import ROWS_PER_COPY, WriteTransaction, document_states, forget_changes, write
from backends.errors import BehindHorizon, IndexBehind
from backends.memory import MemoryIndex
from backends.types import IndexSpec, Metric
from backends.vectors import prepare
from tests.corpora import TAIL_LIMIT, made_collection, put, random_embeddings, searcher
from tests.service.serving import database_of_its_own

SPEC = IndexSpec(dimension=4)


@pytest.fixture
def collection(database: Database, name: str) -> Iterator[CollectionState]:
    with made_collection(database, name, SPEC) as made:
        yield made


def _delete(database: Database, collection: CollectionState, *ids: str) -> int:
    return write(database, collection, lambda change: change.delete_documents(list(ids)), TAIL_LIMIT)


def _follower(database: Database, collection: CollectionState) -> MemoryIndex:
    return MemoryIndex(SPEC, identity(database, collection))


def test_numbers_are_given_in_the_order_of_the_commits(database: Database, collection: CollectionState) -> None:
    """A writer that began first and commits last gets the later number, and holds nobody up meanwhile."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(change: WriteTransaction) -> None:
        change.delete_documents(["a"])
        inside.set()
        assert go_on.wait(10)

    put(database, collection, ["a", "b"], random_embeddings(2, 4))
    thread = threading.Thread(target=lambda: write(database, collection, slow, TAIL_LIMIT))
    thread.start()
    assert inside.wait(10)
    assert _delete(database, collection, "b") == 1
    go_on.set()
    thread.join()
    changes = changes_after(database, collection, 1)
    assert [change.sequence for change in changes] == [2, 3]
    by_name = document_states(database, collection, ["a", "b"])
    assert not by_name
    first, second = (change.deletes.tolist() for change in changes)
    put_ids = changes_after(database, collection, 0)[0]
    assert len(put_ids.upserts.ids) == 0  # both are gone by now
    assert first[0] == second[0] + 1  # b, which came second into the table, went first


def test_a_follower_of_many_writers_misses_nothing(database: Database, collection: CollectionState) -> None:
    """Four writers at once, one follower beside them: it ends with exactly what the corpus has."""
    follower = _follower(database, collection)
    done = threading.Event()

    def writer(who: int) -> None:
        for turn in range(15):
            put(database, collection, [f"w{who}-{turn}"], random_embeddings(1, 4, seed=turn))
            if turn % 3 == 0:
                _delete(database, collection, f"w{who}-{turn - 1}")

    def follow() -> None:
        while not done.is_set():
            bring_up_to_date(database, collection, follower)

    following = threading.Thread(target=follow)
    writers = [threading.Thread(target=writer, args=(who,)) for who in range(4)]
    following.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    following.join()
    bring_up_to_date(database, collection, follower)
    with snapshot(database, collection) as view:
        truth = np.concatenate([batch.ids for batch in view.batches])
        assert view.sequence == follower.stats().applied
    everything = follower.search(prepare(np.ones((1, 4)), SPEC), 1_000).ids[0]
    assert sorted(everything.tolist()) == sorted(truth.tolist())


def test_writers_of_the_same_documents_take_turns(database: Database, collection: CollectionState) -> None:
    """Eight writers replace the same ten documents: all succeed, and each document is there once."""
    ids = [f"d{n}" for n in range(10)]
    faults: list[BaseException] = []

    def writer(seed: int) -> None:
        try:
            put(database, collection, ids if seed % 2 else ids[::-1], random_embeddings(10, 4, seed=seed))
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=writer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    state = find_collection(database, collection.name)
    assert (state.documents, state.chunks, state.sequence) == (10, 10, 8)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_each_row_of_a_bulk_load_stays_whole(database: Database, name: str, metric: Metric) -> None:
    """Rows of several blocks, given in no order: id, text, metadata and embedding stay together, also replaced."""
    spec = IndexSpec(dimension=4, metric=metric)
    count = 2 * ROWS_PER_COPY + 7
    order = np.random.default_rng(7).permutation(count)
    ids = [f"d{n:04d}" for n in order]
    with made_collection(database, name, spec) as collection:
        for seed in (1, 2):
            embeddings = random_embeddings(count, 4, seed)[order]
            put(database, collection, ids, embeddings, [{"n": int(n), "seed": seed} for n in order])
        statement = (
            "SELECT c.document_id, c.text, c.metadata, e.embedding "
            f"FROM ragstone.chunk_{collection.id} c JOIN ragstone.embedding_{collection.id} e ON e.chunk_id = c.id"
        )
        with database.connection() as connection:
            found = {row[0]: row[1:] for row in connection.execute(statement).fetchall()}
        state = find_collection(database, name)
    assert (len(found), state.documents, state.chunks) == (count, count, count)
    for n, id_, embedding in zip(order, ids, prepare(embeddings, spec), strict=True):
        text, metadata, stored = found[id_]
        assert (text, metadata) == (f"text of {id_}", {"n": int(n), "seed": 2})
        assert (stored.to_numpy() == embedding).all()


def test_any_id_can_be_replaced_and_deleted(database: Database, collection: CollectionState) -> None:
    """Also those that mean something where PostgreSQL writes arrays."""
    ids = ['"', "\\", '\\"', ",", "{}", '","', "NULL", "a\nb", "\x01", "ä", "\U0001f600", " ", "a b"]
    for _ in range(2):
        put(database, collection, ids, random_embeddings(len(ids), 4))
    assert find_collection(database, collection.name).documents == len(ids)
    for number, id_ in enumerate(ids, start=1):
        assert _delete(database, collection, id_) == 1
        assert find_collection(database, collection.name).documents == len(ids) - number


def test_an_edit_that_changes_nothing_takes_no_number(database: Database, collection: CollectionState) -> None:
    """Deleting what is not there leaves the sequence as it was."""
    assert _delete(database, collection, "nobody") == 0
    assert find_collection(database, collection.name).sequence == 0


def test_a_snapshot_carries_its_own_number(database: Database, collection: CollectionState) -> None:
    """What is written after the view was opened is neither in it nor in its number."""
    put(database, collection, ["a"], random_embeddings(1, 4))
    with snapshot(database, collection) as view:
        put(database, collection, ["b"], random_embeddings(1, 4))
        assert view.sequence == 1
        assert sum(len(batch.ids) for batch in view.batches) == 1
    assert [change.sequence for change in changes_after(database, collection, 1)] == [2]


def test_a_chunk_is_immutable(database: Database, collection: CollectionState) -> None:
    """A change of metadata makes a new internal id and takes the embedding along, bit for bit."""
    put(database, collection, ["a"], random_embeddings(1, 4), [{"year": 1}])
    before = changes_after(database, collection, 0)[0].upserts
    write(database, collection, lambda change: change.replace_metadata({"a": '{"year": 2}'}), TAIL_LIMIT)
    change = changes_after(database, collection, 1)[0]
    assert change.deletes.tolist() == before.ids.tolist()
    assert change.upserts.ids[0] != before.ids[0]
    assert (change.upserts.embeddings == before.embeddings).all()
    assert change.upserts.attributes == [{"year": 2}]
    assert find_collection(database, collection.name).chunks == 1


def test_an_applier_that_is_late_leaves_only_orphans(database: Database, collection: CollectionState) -> None:
    """An index that still has deleted chunks proposes them in vain: the join drops them, and the tail is added."""
    follower = _follower(database, collection)
    put(database, collection, [f"d{n}" for n in range(20)], random_embeddings(20, 4))
    bring_up_to_date(database, collection, follower)
    _delete(database, collection, *[f"d{n}" for n in range(15)])
    put(database, collection, ["late"], random_embeddings(1, 4, seed=5))
    searching = searcher(database, replace(collection, backend="memory"), follower)
    found = searching.search(prepare(np.ones((1, 4)), SPEC)[0], 20)
    assert sorted(chunk.id for chunk in found.hits) == ["d15", "d16", "d17", "d18", "d19", "late"]


def test_a_tail_that_is_full_holds_writers_up(database: Database, collection: CollectionState) -> None:
    """While an index that follows is too far behind, writes are refused; once it has caught up they go on."""
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO ragstone.vector_index (collection_id, backend, serving, applied) VALUES (%s, 'x', false, 0)",
            (collection.id,),
        )
    put(database, collection, [f"d{n}" for n in range(11)], random_embeddings(11, 4), tail_limit=10)
    with pytest.raises(IndexBehind, match="11 chunks behind, more than tail_limit 10"):
        put(database, collection, ["more"], random_embeddings(1, 4), tail_limit=10)
    with database.connection() as connection:
        connection.execute("UPDATE ragstone.vector_index SET applied = 1 WHERE collection_id = %s", (collection.id,))
    put(database, collection, ["more"], random_embeddings(1, 4), tail_limit=10)


def test_an_index_of_another_corpus_is_rebuilt(database: Database, collection: CollectionState) -> None:
    """An identity that does not match means that nothing in the index can be trusted."""
    put(database, collection, ["a"], random_embeddings(1, 4))
    foreign = MemoryIndex(SPEC, replace(identity(database, collection), system_identifier=1))
    bring_up_to_date(database, collection, foreign)
    assert foreign.identity == identity(database, collection)
    assert foreign.stats().count == 1


def test_corpora_of_one_server_are_told_apart(
    database: Database, collection: CollectionState, postgres_url: str
) -> None:
    """Two databases of one server count collections and indexes alike: their identities differ all the same."""
    with database_of_its_own(postgres_url, "another_corpus") as url:
        other = Database(url, pool_size=1)
        other.open()
        try:
            ours, theirs = identity(database, collection), identity(other, collection)
        finally:
            other.close()
    assert ours.name != theirs.name
    assert replace(ours, system_identifier=theirs.system_identifier) == theirs


def test_an_index_ahead_of_the_corpus_is_rebuilt(database: Database, collection: CollectionState) -> None:
    """A restore rewound the corpus: what the index applied since is not there any more."""
    put(database, collection, ["a"], random_embeddings(1, 4))
    ahead = _follower(database, collection)
    ahead.build((), 99)
    bring_up_to_date(database, collection, ahead)
    assert (ahead.stats().applied, ahead.stats().count) == (1, 1)


def test_deletes_are_remembered_until_every_index_has_them(database: Database, collection: CollectionState) -> None:
    """Forgetting stops at the slowest index; once it has moved on, a follower from before must rebuild."""
    follower = _follower(database, collection)
    put(database, collection, ["a", "b"], random_embeddings(2, 4))
    bring_up_to_date(database, collection, follower)
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO ragstone.vector_index (collection_id, backend, serving, applied) VALUES (%s, 'x', false, 1)",
            (collection.id,),
        )
    _delete(database, collection, "a")
    forget_changes(database, collection.id)
    assert len(changes_after(database, collection, 1)[0].deletes) == 1
    with database.connection() as connection:
        connection.execute("UPDATE ragstone.vector_index SET applied = 2 WHERE collection_id = %s", (collection.id,))
    forget_changes(database, collection.id)
    with pytest.raises(BehindHorizon, match="has applied 1; changes 2 to 2 are kept"):
        changes_after(database, collection, 1)
    assert bring_up_to_date(database, collection, follower) == 2
    assert follower.stats().count == 1


def test_a_replaced_document_is_never_gone(database: Database, collection: CollectionState) -> None:
    """A reader beside a writer that replaces a document again and again always finds it."""
    put(database, collection, ["a"], random_embeddings(1, 4))
    stop, missed = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            if "a" not in document_states(database, collection, ["a"]):
                missed.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for seed in range(40):
        put(database, collection, ["a"], random_embeddings(1, 4, seed=seed))
    stop.set()
    reader.join()
    assert not missed


def test_collection_ids_are_never_used_again(database: Database, name: str) -> None:
    """A collection of the same name is another collection."""
    with made_collection(database, name, SPEC) as first:
        pass
    with made_collection(database, name, SPEC) as second:
        assert second.id > first.id


def test_embeddings_lie_in_line_in_a_narrow_table(database: Database, collection: CollectionState) -> None:
    """Two columns, STORAGE PLAIN: no embedding goes to TOAST."""
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT attname, attstorage FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
            (f"ragstone.embedding_{collection.id}",),
        ).fetchall()
    assert [(row[0], row[1]) for row in rows] == [("chunk_id", "p"), ("embedding", "p")]


@pytest.mark.parametrize(("precision", "dimension"), [("half", 4_000), ("single", 2_000)])
def test_the_largest_embedding_fits_its_page(database: Database, name: str, precision: str, dimension: int) -> None:
    """What the limits of the dimension allow can be written and found again."""
    spec = IndexSpec(dimension=dimension, precision=precision)  # type: ignore[arg-type]
    with made_collection(database, name, spec) as collection:
        put(database, collection, ["a"], random_embeddings(1, dimension))
        assert find_collection(database, name).chunks == 1


def test_a_tail_that_is_forgotten_is_fetched_again(database: Database, collection: CollectionState) -> None:
    """A copy of an index that nobody counts may be behind the horizon: it catches up before it answers."""
    follower = _follower(database, collection)
    put(database, collection, ["old"], random_embeddings(1, 4))
    bring_up_to_date(database, collection, follower)
    put(database, collection, ["new"], np.ones((1, 4), np.float32))
    forget_changes(database, collection.id)
    searching = searcher(database, replace(collection, backend="memory"), follower)
    assert searching.search(prepare(np.ones((1, 4)), SPEC)[0], 1).hits[0].id == "new"


def test_a_build_elsewhere_in_the_cluster_is_left_alone(database: Database, name: str, postgres_url: str) -> None:
    """Deleting a collection cancels its own builder, not one of the same number in another database."""
    with database.connection() as connection:
        connection.execute("DROP DATABASE IF EXISTS neighbour WITH (FORCE)")
        connection.execute("CREATE DATABASE neighbour")
    url = psycopg.conninfo.make_conninfo(postgres_url, dbname="neighbour")
    with psycopg.connect(url, autocommit=True) as neighbour:
        with made_collection(database, name, SPEC) as collection:
            neighbour.execute("SELECT pg_advisory_lock(%s, %s::integer)", (BUILD_LOCK_SPACE, collection.id))
            sleeping = threading.Thread(target=neighbour.execute, args=("SELECT pg_sleep(1)",))
            sleeping.start()
            time.sleep(0.2)
        sleeping.join()
        assert neighbour.execute("SELECT 1").fetchone() == (1,)
    with database.connection() as connection:
        connection.execute("DROP DATABASE neighbour WITH (FORCE)")


def test_a_statement_timeout_of_the_role_does_not_reach_writes(database: Database, collection: CollectionState) -> None:
    """Managed databases set one; ours are set by us."""
    with database.connection() as connection:
        row = connection.execute("SHOW statement_timeout").fetchone()
        connection.execute("ALTER ROLE CURRENT_USER SET statement_timeout = '1ms'")
    try:
        other = Database(database.conninfo, pool_size=1)
        other.open()
        put(other, collection, [f"d{n}" for n in range(500)], random_embeddings(500, 4))
        other.close()
    finally:
        with database.connection() as connection:
            connection.execute("ALTER ROLE CURRENT_USER RESET statement_timeout")
    assert row == ("0",)
    assert find_collection(database, collection.name).chunks == 500
