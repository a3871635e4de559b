"""An index that does not hold what the corpus holds, or does not find it, is found out and mended."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.health import effort, outside, parity
from retrieval.config import load
from tests.health.watched import STRAY, VAULTS, Vault, Watched, watched


@dataclass
class Kept:
    """A collection, and where its index keeps its data."""

    subject: Watched
    vault: Vault


@pytest.fixture(scope="module", params=list(VAULTS))
def kept(request: pytest.FixtureRequest, postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """A collection served by each backend in turn; every test leaves it well."""
    folder = tmp_path_factory.mktemp("indexes")
    with VAULTS[request.param](folder) as vault:
        settings = load(embedding_model="hashing", **vault.settings)
        with watched(postgres_url, f"health_parity_{request.param}", settings) as subject:
            subject.move(request.param)
            yield Kept(subject, vault)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store here counts late; and a quarter of the queries do."""
    monkeypatch.setattr(parity, "COUNT_PAUSE_S", 0.0)
    monkeypatch.setattr(parity, "SELF_QUERIES", 50)


def test_an_orphan_is_deleted(kept: Kept) -> None:
    """An id that the corpus does not have is a warning, and goes by a change that the index applies."""
    subject = kept.subject
    assert subject.level(parity.index_ids, "index_orphans") == subject.level(parity.index_count) == "ok"
    kept.vault.insert(subject, STRAY)
    found = subject.look(parity.index_ids)
    assert (found["index_orphans"].level, found["index_orphans"].value) == ("warn", 1.0)
    assert found["index_ids"].level == "ok"
    count = subject.look(parity.index_count)["index_count"]
    assert (count.level, count.value) == ("warn", 1.0)
    fixes = [outside.FIXES[check.name](subject.rag, check) for check in (count, found["index_orphans"])]
    assert len({fix.description for fix in fixes if fix}) == 1  # both are mended at once
    before = subject.state
    subject.mend(parity.index_ids, "index_orphans")
    assert subject.level(parity.index_ids, "index_orphans") == subject.level(parity.index_count) == "ok"
    after = subject.state
    assert (after.sequence, after.chunks) == (before.sequence + 1, before.chunks)


def test_missing_chunks_are_built_again(kept: Kept) -> None:
    """Chunks that the index lost are critical; it is built anew beside the one that serves, and that one goes."""
    subject = kept.subject
    kept.vault.lose(subject, subject.ids()[10:13])
    found = subject.look(parity.index_ids)
    assert (found["index_ids"].level, found["index_ids"].value) == ("crit", 3.0)
    assert found["index_orphans"].level == "ok"
    count = subject.look(parity.index_count)["index_count"]
    assert (count.level, count.value) == ("crit", -3.0)
    before = subject.state
    subject.mend(parity.index_ids)
    assert subject.level(parity.index_ids) == subject.level(parity.index_count) == "ok"
    after = subject.state
    assert (after.backend, after.pinned_backend) == (before.backend, before.pinned_backend)
    assert after.index_id != before.index_id
    assert [row.state for row in subject.subject.rows if row.id == before.index_id] in (["dropping"], [])


def test_vectors_that_do_not_find_themselves(kept: Kept) -> None:
    """Ids that stand for each other's embeddings pass every count, and are found out by asking for themselves."""
    subject = kept.subject
    assert subject.level(parity.index_self_recall) == "ok"
    kept.vault.shuffle(subject)
    assert subject.level(parity.index_ids) == subject.level(parity.index_count) == "ok"
    assert subject.level(parity.index_self_recall) == "crit"
    if kept.vault.backend == "faiss":
        assert subject.level(parity.index_recall) == "crit"
    subject.mend(parity.index_self_recall)
    assert subject.level(parity.index_self_recall) == "ok"
    if kept.vault.backend == "faiss":
        assert subject.level(parity.index_recall) == "ok"


def test_a_number_of_ids_beyond_the_budget_is_not_compared(kept: Kept) -> None:
    """With less time than it takes, ids are left alone, and the count says so; more time is all it needs."""
    subject = kept.subject
    assert parity.index_ids.__name__ in subject.look(parity.index_ids)
    assert subject.look(parity.index_ids, budget_s=0.0) == {}
    assert "too many" in subject.look(parity.index_count, budget_s=0.0)["index_count"].detail


def test_effort_below_what_is_asked_for(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """An effort below the usual top_k is a warning, from the settings or from tuning; FAISS's flat kind has none."""
    subject = kept.subject
    if kept.vault.backend != "weaviate":
        assert subject.look(effort.index_effort) == {}
        return
    assert subject.level(effort.index_effort) == "ok"
    monkeypatch.setattr(subject.rag, "settings", subject.rag.settings.model_copy(update={"ef_search": 5}))
    assert subject.level(effort.index_effort) == "warn"


@pytest.fixture
def corpus(postgres_url: str, tmp_path: Path) -> Iterator[Watched]:
    """A collection on pgvector."""
    settings = load(embedding_model="hashing", index_folder=str(tmp_path), index_min_chunks=50, faiss_kind="hnsw")
    with watched(postgres_url, "health_parity", settings) as subject:
        yield subject


@pytest.mark.parametrize(
    ("table", "key", "name", "level"),
    [("embedding", "chunk_id", "index_ids", "crit"), ("chunk", "id", "index_orphans", "warn")],
)
def test_the_corpus_itself(corpus: Watched, table: str, key: str, name: str, level: str) -> None:
    """On pgvector an embedding that is gone from its table is missing; one whose text is gone is an orphan."""
    subject, table = corpus, f"ragstone.{table}_{corpus.state.id}"
    subject.execute(f"CREATE TABLE kept AS SELECT * FROM {table} ORDER BY {key} LIMIT 1")
    assert subject.level(parity.index_count) == subject.level(parity.index_ids, name) == "ok"
    subject.execute(f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM kept)")
    assert subject.level(parity.index_count) == subject.level(parity.index_ids, name) == level
    subject.execute(f"INSERT INTO {table} SELECT * FROM kept")
    assert subject.level(parity.index_count) == subject.level(parity.index_ids, name) == "ok"


TUNED = "UPDATE ragstone.collection SET efforts = %s::text::jsonb"
ASKED = """INSERT INTO ragstone.captured_query
    (collection_id, backend, embedding, top_k, ids, scores, exact, sequence, search_ms)
    SELECT %s, %s, '', 200, '{}', '{}', false, 1, 1"""


@pytest.mark.parametrize("backend", ["pgvector", "faiss"])
def test_effort_of_what_users_ask(corpus: Watched, backend: str) -> None:
    """Effort is held against the top_k that users ask for of late, also what was tuned."""
    subject, id_ = corpus, corpus.state.id
    if backend == "faiss":
        subject.move("faiss")
    assert subject.level(effort.index_effort) == "ok"
    subject.execute(TUNED, f'{{"{backend}": {{"all": 64, "1%": 8}}}}')
    assert subject.level(effort.index_effort) == "warn"
    subject.execute(TUNED, "{}")
    assert subject.level(effort.index_effort) == "ok"
    subject.execute(ASKED, id_, backend)
    assert subject.level(effort.index_effort) == "warn"
    subject.execute("UPDATE ragstone.captured_query SET captured_at = now() - interval '2 days'")
    assert subject.level(effort.index_effort) == "ok"
