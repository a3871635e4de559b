"""A drill passes for a good backup, and finds what hashes cannot see: a restore that does not bring everything back."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as quickly
from hypothesis import strategies as st
from pydantic import SecretStr

import retrieval
from backends.corpus.collections import find_collection
from backends.errors import BackupDamaged, InvalidInput
from backends.types import IndexSpec, Metric, Precision
from backends.vectors import exact_scores, prepare, prepare_kept
from ops import backup
from ops.backup import drill, nearest, row_sums, shards
from ops.backup.chains import chain, load
from ops.backup.progress import Progress, nobody
from ops.backup.repository import Repository
from ops.backup.restoring import restore
from ops.moving.verification import drawn_queries
from retrieval import Collection, Document, Ragstone
from retrieval.config import Settings
from tests.corpora import random_embeddings
from tests.fakes.weaviate_server import weaviate_server

DIMENSION = 16
CHUNKS = 200
METRICS: tuple[Metric, ...] = ("cosine", "inner_product", "l2")
PRECISIONS = st.sampled_from(["half", "single"])
KEY = "a key of sixteen characters"


def filled(rag: Ragstone, name: str, count: int = CHUNKS, **given: Any) -> Collection:
    """A collection of made-up embeddings, longer than 1, of which some are equal."""
    made = rag.create_collection(name, dimension=DIMENSION, **given)
    if count:
        embeddings = 30 * random_embeddings(count, DIMENSION)
        embeddings[count // 2 : count // 2 + 20] = embeddings[0]
        ids = [f"d{n}" for n in range(count)]
        metadata = [{"n": n, "words": ["ä", '"'], "share": n / 7} for n in range(count)]
        made.upsert_embeddings(ids, embeddings, [f"text of {id_}\n…" for id_ in ids], metadata)
    return made


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for what is temporary, of its own."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_good_backup_passes(rag: Ragstone, settings: Settings, repo: str, temporary: Path) -> None:
    """Every metric and precision, texts of several chunks, few chunks, none, a move to FAISS, and what was changed
    since the full backup: all is proven, counted and measured, and nothing stays behind.
    """
    for metric in METRICS:
        filled(rag, metric, metric=metric, precision="single" if metric == "l2" else "half")
    filled(rag, "faiss").configure(placement_threshold=CHUNKS // 2)
    filled(rag, "one", 1)
    filled(rag, "none", 0)
    rag.create_collection("texts").upsert([Document(id="long", title="Ünder", text="A word and one more. " * 300)])
    backup.create(rag, repo)
    rag.collection("l2").delete(ids=[f"d{n}" for n in range(0, CHUNKS, 3)])
    rag.collection("cosine").upsert_embeddings(["d7", "new"], random_embeddings(2, DIMENSION, 9), ["other", "new"])
    backup.create(rag, repo, incremental=True)
    told: list[Progress] = []
    found = backup.verify(repo, depth="drill", settings=settings, watch=told.append)
    assert found.problems == []
    assert found.drill is not None
    by_name = {one["name"]: one for one in found.drill["collections"]}
    infos = {name: rag.collection(name).info() for name in rag.collections()}
    assert {n: (one["documents"], one["chunks"]) for n, one in by_name.items()} == {
        name: (info.documents, info.chunks) for name, info in infos.items()
    }
    assert {name for name, one in by_name.items() if one["backend"] == "faiss"} == {"faiss"}
    for name, one in by_name.items():
        assert one["identical_exact"] == one["queries"] == min(drill.QUERIES, one["chunks"])
        assert (one["recall"] is None) == (name in ("one", "none", "texts"))
        assert one["recall"] is None or 0.95 <= one["recall_low"] <= one["recall"] <= one["recall_high"] <= 1
    assert {progress.phase.split()[0] for progress in told} == {"reading", "restoring:", "comparing", "searching"}
    assert all(progress.done <= progress.total for progress in told)
    assert list(temporary.iterdir()) == []


def test_a_signed_backup_is_drilled_with_its_key(rag: Ragstone, settings: Settings, repo: str, temporary: Path) -> None:
    """The key that a verification is given reaches the restore, whatever the settings say."""
    filled(rag, "signed", 3)
    with retrieval.open(rag.settings.data, settings=retrieval.config.load(backup_key=KEY)) as signing:
        backup.create(signing, repo)
    other = settings.model_copy(update={"backup_key": SecretStr(KEY[::-1])})
    assert backup.verify(repo, depth="drill", key=KEY, settings=other).problems == []


@dataclass
class Restored:
    """A collection named "notes" that was restored well, and the proof of it that is to fail."""

    rag: Ragstone
    proof: drill.Proof

    def execute(self, statement: str) -> None:
        """Change the restored tables: `chunk` and `embedding` stand for their names."""
        number = self.proof.state.id
        words = {"chunk": f"ragstone.chunk_{number}", "embedding": f"ragstone.embedding_{number}"}
        with self.rag.database.connection() as connection:
            assert connection.execute(statement.format(**words).encode()).rowcount == 1

    def problem(self) -> str:
        """What the proof finds."""
        with pytest.raises(BackupDamaged) as caught:
            self.proof.run()
        assert caught.value.file == self.proof.links[-1][0]
        return caught.value.problem


@pytest.fixture
def restored(rag: Ragstone, elsewhere: Ragstone, repo: str) -> Restored:
    filled(rag, "notes")
    made = backup.create(rag, repo)
    restore(elsewhere, repo)
    return Restored(elsewhere, proof_of(elsewhere, repo, made.id))


def proof_of(rag: Ragstone, repo: str, backup_id: str) -> drill.Proof:
    """The proof of the only collection of a backup, restored into this corpus."""
    repository = Repository.open(repo)
    manifest = load(repository, backup_id, None)
    [entry] = manifest.collections
    state = find_collection(rag.database, entry.name)
    return drill.Proof(rag, repository, chain(repository, manifest, entry, None), state, nobody)


DAMAGE = {
    "text": "UPDATE {chunk} SET text = replace(text, '…', '...') WHERE document_id = 'd7'",
    "title": "UPDATE {chunk} SET title = 'T' WHERE document_id = 'd7'",
    "metadata": """UPDATE {chunk} SET metadata = jsonb_set(metadata, '{{n}}', '8') WHERE document_id = 'd7'""",
    "start_at": "UPDATE {chunk} SET start_at = start_at + 1 WHERE document_id = 'd7'",
    "end_at": "UPDATE {chunk} SET end_at = end_at + 1 WHERE document_id = 'd7'",
    "content_hash": "UPDATE {chunk} SET content_hash = decode(repeat('ab', 16), 'hex') WHERE document_id = 'd7'",
    "title and text": "UPDATE {chunk} SET title = text, text = title WHERE document_id = 'd7'",
    "embedding": """UPDATE {embedding} SET embedding = (
        SELECT array_agg(CASE WHEN place = 3 THEN value + 1e-3 ELSE value END ORDER BY place)::real[]::halfvec
        FROM unnest(embedding::real[]) WITH ORDINALITY t (value, place))
        WHERE chunk_id = (SELECT id FROM {chunk} WHERE document_id = 'd7')""",
}


@pytest.mark.parametrize("column", DAMAGE)
def test_a_value_that_changed_on_the_way_is_found(restored: Restored, column: str) -> None:
    """One value of one row, whichever column it is in: the drill names the collection, the chunk and the column."""
    restored.execute(DAMAGE[column])
    assert restored.problem() == f"collection 'notes': chunk 'd7' was restored with another {column}"


@pytest.mark.parametrize(
    ("tables", "found"),
    [
        (["chunk", "embedding"], "chunk 'd7' was not restored"),
        (["embedding"], "200 texts and 199 embeddings"),
        (["chunk"], "199 texts and 200 embeddings"),
    ],
)
def test_a_row_that_is_lost_is_found(restored: Restored, tables: list[str], found: str) -> None:
    """A chunk that lacks its row, its embedding, or both was not restored."""
    state = restored.proof.state
    with restored.rag.database.connection() as connection:
        picked = connection.execute(f"SELECT id FROM ragstone.chunk_{state.id} WHERE document_id = 'd7'".encode())
        [id_] = picked.fetchone() or ()
    for table in tables:
        restored.execute(f"DELETE FROM {{{table}}} WHERE {'id' if table == 'chunk' else 'chunk_id'} = {id_}")
    assert found in restored.problem()


def test_a_row_under_another_id_is_found(restored: Restored) -> None:
    """A chunk that has become another's is missing, or one too many, whichever comes first."""
    restored.execute("UPDATE {chunk} SET document_id = 'stranger' WHERE document_id = 'd7'")
    missing, strange = "'d7' was not restored", "'stranger' was restored, and is not in the backup"
    assert restored.problem() in (f"collection 'notes': chunk {missing}", f"collection 'notes': chunk {strange}")


def test_a_collection_that_counts_or_is_set_otherwise_is_found(restored: Restored) -> None:
    """What stands in the collection's own row is compared with the manifest."""
    state = restored.proof.state
    for changed in ({"chunks": 199}, {"stamp": {"embedder": "another"}}, {"recall_target": 0.5}, {"sequence": 99}):
        restored.proof = replace(restored.proof, state=replace(state, **changed))
        [(name, value)] = changed.items()
        assert f"its {name} became {value!r}; needed" in restored.problem()


def test_a_search_that_finds_something_else_is_found(restored: Restored, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that are right are no proof: the hits of an exact search must be the ones that NumPy finds."""
    search = Collection.search

    def forgetful(self: Collection, embedding: object, top_k: int, **how: Any) -> list[retrieval.Hit]:
        return [hit for hit in search(self, embedding, top_k + 1, **how) if hit.id != "d7"][:top_k]

    monkeypatch.setattr(Collection, "search", forgetful)
    assert "an exact search finds" in restored.problem()


def test_an_index_that_misses_too_much_is_found(rag: Ragstone, elsewhere: Ragstone, repo: str) -> None:
    """The recall of an index with little effort on points that lie everywhere has an interval below the target."""
    made = rag.create_collection("hard", dimension=256, recall_target=1.0)
    count = 3_000
    embeddings = np.random.default_rng(0).normal(size=(count, 256))
    made.upsert_embeddings([f"d{n}" for n in range(count)], embeddings, ["text"] * count)
    backup_id = backup.create(rag, repo).id
    restore(elsewhere, repo)
    hasty = elsewhere.settings.model_copy(update={"ef_search": drill.TOP_K})
    wanted = r"'hard': recall@10 of its index is 0\.\d.* below the target 1:"
    with (
        retrieval.open(elsewhere.settings.data, settings=hasty) as opened,
        pytest.raises(BackupDamaged, match=wanted),
    ):
        proof_of(opened, repo, backup_id).run()


def test_what_a_drill_finds_is_a_problem_of_the_backup(
    rag: Ragstone, settings: Settings, repo: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore that loses a row fails the verification of a backup whose hashes are right; it is remembered."""
    filled(rag, "kept", 20)
    filled(rag, "notes", 20)
    made = backup.create(rag, repo)

    def losing(opened: Ragstone, *given: Any, **how: Any) -> Any:
        ended = restore(opened, *given, **how)
        opened.collection("notes").delete(ids=["d7"])
        return ended

    monkeypatch.setattr(drill, "restore", losing)
    found = backup.verify(repo, depth="drill", settings=settings)
    assert (found.ok, found.drill) == (False, None)
    assert found.problems == [(made.id, "collection 'notes': chunk 'd7' was not restored")]
    assert backup.list_backups(repo).verifications[made.id]
    assert list(temporary.iterdir()) == []


def test_a_drill_that_is_stopped_leaves_nothing(rag: Ragstone, settings: Settings, repo: str, temporary: Path) -> None:
    """Ctrl-C while rows are compared, or while it restores: the server stops, and the folder is gone."""
    filled(rag, "notes", 20)
    backup.create(rag, repo)
    for phase in ("restoring", "comparing", "searching"):

        def stop(progress: Progress, phase: str = phase) -> None:
            if progress.phase.startswith(phase):
                assert list(temporary.glob("ragstone-drill-*/postgres"))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            backup.verify(repo, depth="drill", settings=settings, watch=stop)
        assert list(temporary.iterdir()) == []


def test_too_little_room_is_said_before_anything_is_made(
    rag: Ragstone, settings: Settings, repo: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names TMPDIR, what is free there, and what is needed; the folder stays empty."""
    filled(rag, "notes")
    backup.create(rag, repo)
    usage = drill.shutil.disk_usage(temporary)
    monkeypatch.setattr(drill.shutil, "disk_usage", lambda _: usage._replace(free=50_000_000))
    with pytest.raises(InvalidInput, match=r"TMPDIR: found 50.0 MB free in .*tmp, .* needed about 10\d\.\d MB"):
        backup.verify(repo, depth="drill", settings=settings)
    assert list(temporary.iterdir()) == []


def test_an_index_outside_the_corpus_is_dropped(rag: Ragstone, settings: Settings, repo: str, temporary: Path) -> None:
    """A collection that belongs to Weaviate has its index there while the drill runs, and not afterwards."""
    filled(rag, "notes").configure(placement_threshold=CHUNKS // 2)
    backup.create(rag, repo)
    seen = []
    with weaviate_server() as fake:
        where = {"large_backend": "weaviate", "weaviate_url": fake.url, "weaviate_grpc_port": fake.grpc_port}

        def watch(_: Progress) -> None:
            seen.append(len(fake.store.classes))

        found = backup.verify(repo, depth="drill", settings=settings.model_copy(update=where), watch=watch)
        assert (found.problems, max(seen), len(fake.store.classes)) == ([], 1, 0)
    [one] = (found.drill or {})["collections"]
    assert (one["backend"], one["recall"] > 0.95) == ("weaviate", True)


SPECS = st.builds(IndexSpec, dimension=st.just(DIMENSION), metric=st.sampled_from(METRICS), precision=PRECISIONS)


@quickly(max_examples=30, deadline=None)
@given(spec=SPECS, count=st.integers(1, 150), distinct=st.integers(1, 150), seed=st.integers(0, 99))
def test_the_nearest_are_those_of_a_sort(spec: IndexSpec, count: int, distinct: int, seed: int) -> None:
    """Whatever comes in whatever batches, also many equal rows: the ten with the best scores of all."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(distinct, DIMENSION))[rng.integers(0, distinct, count)]
    rows = rows_with(prepare_kept(points, spec), spec.precision)
    queries = drawn_queries(points.astype(np.float32), spec)[:5]
    found = nearest.Nearest(queries, spec)
    for start in range(0, count, 60):
        found.add(rows.slice(start, 60))
    for at, query in enumerate(prepare(queries, spec)):
        scores = exact_scores(query, prepare(points, spec), spec)
        order = sorted(range(count), key=lambda n: -scores[n])[: drill.TOP_K]
        assert nearest.agree(found.best[at], [(f"d{n}", float(scores[n])) for n in order], 1e-12)
        assert all(abs(score - scores[int(id_[1:])]) < 1e-12 for id_, score in found.best[at])


def rows_with(embeddings: np.ndarray, precision: Precision) -> pa.RecordBatch:
    """Rows of documents d0, d1, ..."""
    count, dimension = embeddings.shape
    names = [f"d{n}" for n in range(count)]
    numbers = pa.array([0] * count, pa.int32())
    columns = [
        pa.array(range(count), pa.int64()),
        pa.array(names),
        numbers,
        pa.array(["title"] * count),
        pa.array([f"text of {name}" for name in names]),
        pa.array(["{}"] * count),
        numbers,
        numbers,
        pa.array([None if n % 3 else bytes(16) for n in range(count)], pa.binary()),
        shards.embedding_array(embeddings),
    ]
    return pa.record_batch(columns, shards.chunk_schema(dimension, precision))


@quickly(max_examples=30, deadline=None)
@given(order=st.permutations(range(12)), cut=st.integers(0, 12))
def test_sums_do_not_depend_on_the_order(order: list[int], cut: int) -> None:
    """The same rows in another order, in other batches and with other ids add up to the same."""
    rows = rows_with(random_embeddings(12, DIMENSION), "single")
    whole, parts = row_sums.Sums(), row_sums.Sums()
    whole.add(rows)
    shuffled = rows.take(pa.array(order)).set_column(0, rows.schema.field(0), pa.array(range(50, 62), pa.int64()))
    for part in (shuffled.slice(0, cut), shuffled.slice(cut)):
        parts.add(part)
    assert whole.first_difference(parts) is None
    assert (whole.documents, whole.chunks) == (parts.documents, parts.chunks) == (12, 12)


def test_sums_tell_apart_what_stands_at_another_place() -> None:
    """Text that moved from one column to the next, and no hash instead of an empty one, are differences."""
    rows = rows_with(random_embeddings(1, DIMENSION), "single")

    def sums(**changed: Any) -> row_sums.Sums:
        made, altered = row_sums.Sums(), rows
        for name, value in changed.items():
            field = rows.schema.field(name)
            altered = altered.set_column(rows.schema.get_field_index(name), field, pa.array([value], field.type))
        made.add(altered)
        return made

    assert sums(title="ab", text="c").first_difference(sums(title="a", text="bc")) is not None
    assert sums(content_hash=None).first_difference(sums(content_hash=b"")) is not None
    assert sums().first_difference(sums()) is None


TEN = [(f"d{n}", 1 - n / 10) for n in range(10)]


@pytest.mark.parametrize(
    ("found", "is_same"),
    [
        (TEN, True),
        ([(id_, score + 0.9e-5) for id_, score in TEN], True),
        ([*TEN[:9], ("tied", TEN[9][1])], True),
        ([TEN[0], TEN[2], TEN[1], *TEN[3:]], False),
        ([*TEN[:8], ("stranger", TEN[8][1]), TEN[9]], False),
        ([(id_, score + 2e-5) for id_, score in TEN], False),
        (TEN[:9], False),
        ([*TEN[:9], TEN[0]], False),
    ],
    ids=["same", "rounded", "tied-last", "swapped", "stranger", "scored-otherwise", "short", "twice"],
)
def test_answers_agree_but_for_ties(found: drill.Best, is_same: bool) -> None:
    """Equal are scores within the tolerance and ids outside of ties; nothing else is."""
    assert nearest.agree(found, TEN, 1e-5) == is_same


@quickly(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_an_interval_lies_around_the_mean(values: list[float]) -> None:
    """It holds the mean, stays among the values, and is a point where all of them are the same."""
    low, high = nearest.mean_interval(values)
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12
    assert len(values) < 20 or low - 1e-9 <= np.mean(values) <= high + 1e-9


def test_an_interval_is_as_wide_as_theory_says() -> None:
    """Of 100 values, 90 of them 1 and the others 0: 0.9 and about 1.96 standard errors to both sides."""
    low, high = nearest.mean_interval([1.0] * 90 + [0.0] * 10)
    wide = 1.96 * np.sqrt(0.9 * 0.1 / 100)
    assert (low, high) == (pytest.approx(0.9 - wide, abs=0.015), pytest.approx(0.9 + wide, abs=0.015))
