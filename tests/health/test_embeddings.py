"""Stored embeddings: each check sees a fault that was really made, and sees it mended."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from ops.health import embeddings
from ops.health.fixing import fixes_for
from retrieval import Document, Ragstone
from tests.health.conftest import CHUNKS, DIMENSION, Patient, put

LOST = 200


def test_an_embedding_that_no_chunk_leads_to(small: Patient) -> None:
    """An embedding without its chunk is a warning, and is deleted."""
    assert small.check(embeddings.unjoined_embeddings).level == "ok"
    small.sql(f"INSERT INTO {small.embedding} SELECT 1, embedding FROM {small.embedding} LIMIT 1")
    found = small.check(embeddings.unjoined_embeddings)
    assert (found.level, found.value) == ("warn", 1)
    assert small.mend(found) == f"delete 1 embeddings of {small.collection.name} that belong to no chunk"
    assert small.check(embeddings.unjoined_embeddings).level == "ok"


def test_a_chunk_that_lost_its_embedding(small: Patient) -> None:
    """A chunk without its embedding cannot be found by any search: it is critical, until its document comes again."""
    small.sql(f"DELETE FROM {small.embedding} WHERE chunk_id = (SELECT id FROM {small.chunk} WHERE document_id = 'd7')")
    found = small.check(embeddings.unjoined_embeddings)
    assert (found.level, found.value) == ("crit", 1)
    assert found.detail.startswith("1 chunks without an embedding")
    put(small.collection, range(7, 8))
    assert small.check(embeddings.unjoined_embeddings).level == "ok"


def test_an_embedding_of_zeros(small: Patient) -> None:
    """Zeros under cosine are left out of HNSW: one is critical."""
    assert small.checks(embeddings.embedding_norms)["zero_embeddings"].level == "ok"
    with replaced_embedding(small, [0.0] * DIMENSION):
        found = small.checks(embeddings.embedding_norms)
        assert (found["zero_embeddings"].level, found["zero_embeddings"].value) == ("crit", 1)
        assert found["zero_embeddings"].detail.startswith("of 50 looked at")
        assert found["embedding_norms"].level == "ok"
    assert small.checks(embeddings.embedding_norms)["zero_embeddings"].level == "ok"


@pytest.mark.parametrize("length", [0.99, 1.01, 30.0])
def test_an_embedding_that_another_program_wrote(small: Patient, length: float) -> None:
    """An embedding that was never brought to length 1 came past Ragstone; those that were rounded are fine."""
    assert small.check(embeddings.embedding_norms).level == "ok"
    with replaced_embedding(small, [length, *[0.0] * (DIMENSION - 1)]):
        found = small.checks(embeddings.embedding_norms)
        assert (found["embedding_norms"].level, found["embedding_norms"].value) == ("warn", 1)
        assert found["zero_embeddings"].level == "ok"
    assert small.check(embeddings.embedding_norms).level == "ok"


def test_lengths_say_nothing_under_another_metric(rag: Ragstone, url: str, name: str) -> None:
    """Only under cosine are embeddings brought to length 1."""
    collection = rag.create_collection(name, dimension=DIMENSION, metric="l2")
    put(collection, range(10))
    assert Patient(rag, url, collection).checks(embeddings.embedding_norms) == {}
    rag.delete_collection(name)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_embeddings_that_hnsw_has_lost(rag: Ragstone, url: str, name: str, metric: str) -> None:
    """Rows that were written past a damaged index do not find themselves: critical, and mended by a reindex."""
    patient = Patient(rag, url, rag.create_collection(name, dimension=DIMENSION, metric=metric))  # type: ignore[arg-type]
    put(patient.collection, range(CHUNKS - LOST))
    patient.build()
    assert patient.check(embeddings.hnsw_self_recall).level == "ok"
    with index_out_of_order(patient):
        put(patient.collection, range(CHUNKS - LOST, CHUNKS))
    found = patient.check(embeddings.hnsw_self_recall)
    assert (found.level, found.backend) == ("crit", "pgvector")
    assert found.value is not None
    assert found.value < (0.97 if metric == "inner_product" else 0.95)  # under that, another may well be nearer
    assert "REINDEX INDEX CONCURRENTLY" in patient.mend(found)
    assert patient.check(embeddings.hnsw_self_recall).level == "ok"
    rag.delete_collection(name)


def test_an_effort_that_misses_what_is_there(
    rag: Ragstone, url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a greater effort finds is not lost: a warning to raise the effort, and nothing is to be rebuilt."""
    monkeypatch.setattr(embeddings, "QUERIES", 400)
    monkeypatch.setattr(embeddings, "FOUND_WARN", 0.995)  # so small a collection is searched well with no effort
    patient = Patient(rag, url, rag.create_collection(name, dimension=256))
    noise = np.random.default_rng(0).normal(size=(1_500, 256))
    ids = [f"d{number}" for number in range(len(noise))]
    patient.collection.upsert_embeddings(ids, noise, ids)
    patient.build()
    setting = "UPDATE ragstone.collection SET efforts = %s WHERE id = %s"
    patient.sql(setting, '{"pgvector": {"all": 1}}', patient.collection.id)
    found = patient.check(embeddings.hnsw_self_recall)
    assert found.level == "warn"
    assert found.detail.endswith("with the greatest effort 0")
    assert fixes_for(patient.rag, [found]) == []
    patient.sql(setting, '{"pgvector": {"all": 100}}', patient.collection.id)
    assert patient.check(embeddings.hnsw_self_recall).level == "ok"
    rag.delete_collection(name)


def test_near_duplicates_that_cut_the_graph_to_pieces(rag: Ragstone, url: str, name: str) -> None:
    """Where more embeddings are nearly alike than one has neighbours, HNSW cannot go from one crowd to the next."""
    patient = Patient(rag, url, rag.create_collection(name, dimension=DIMENSION))
    generator = np.random.default_rng(0)
    crowds = generator.normal(size=(20, DIMENSION))[generator.integers(0, 20, CHUNKS)]
    ids = [f"d{number}" for number in range(CHUNKS)]
    patient.collection.upsert_embeddings(ids, crowds + 0.01 * generator.normal(size=crowds.shape), ids)
    patient.build()
    found = patient.check(embeddings.hnsw_self_recall)
    assert found.level == "crit"
    assert "near-duplicates" in found.hint
    rag.delete_collection(name)


def test_a_collection_without_an_index_loses_nothing(small: Patient) -> None:
    """Where every search compares everything, there is no self-recall to speak of."""
    assert small.checks(embeddings.hnsw_self_recall) == {}


def test_a_collection_whose_row_was_altered(small: Patient) -> None:
    """A dimension that is not the table's is critical, until it is set right."""
    assert small.check(embeddings.embedding_type).level == "ok"
    set_dimension = "UPDATE ragstone.collection SET dimension = %s WHERE id = %s"
    small.sql(set_dimension, DIMENSION + 1, small.collection.id)
    found = small.check(embeddings.embedding_type)
    assert (found.level, found.threshold) == ("crit", f"halfvec({DIMENSION + 1})")
    assert found.detail == f"the table holds halfvec({DIMENSION})"
    small.sql(set_dimension, DIMENSION, small.collection.id)
    assert small.check(embeddings.embedding_type).level == "ok"


def test_texts_that_another_model_embedded(rag: Ragstone, url: str, name: str) -> None:
    """A service that embeds with another model is told so, by the model's name where it has not loaded it yet."""
    texts = rag.create_collection(name)
    texts.upsert([Document(id="a", title="", text="leave", metadata={})])
    patient = Patient(rag, url, texts)
    found = patient.check(embeddings.stamp)
    assert (found.level, found.detail) == ("ok", "this process embeds with hashing")
    with patient.reopened(embedding_model="all-MiniLM-L6-v2") as other:
        found = other.check(embeddings.stamp)
        assert (found.level, found.detail) == ("crit", "this process embeds with all-MiniLM-L6-v2, by its name")
        assert "embedder" not in vars(other.rag)
    with patient.reopened() as other:
        assert other.check(embeddings.stamp).level == "ok"
    rag.delete_collection(name)


def test_texts_of_another_revision_of_the_model(rag: Ragstone, url: str, name: str) -> None:
    """The model that is loaded is compared with all of the stamp, not with the name alone."""
    patient = Patient(rag, url, rag.create_collection(name))
    stamped = "UPDATE ragstone.collection SET stamp = jsonb_set(stamp, '{embedder,revision}', %s) WHERE id = %s"
    patient.sql(stamped, '"2"', patient.collection.id)
    assert patient.check(embeddings.stamp).level == "crit"
    patient.sql(stamped, '"1"', patient.collection.id)
    assert patient.check(embeddings.stamp).level == "ok"
    rag.delete_collection(name)


def test_no_model_is_asked_of_embeddings_of_ones_own(small: Patient) -> None:
    """A collection of the user's own embeddings has no stamp to compare."""
    assert small.checks(embeddings.stamp) == {}


@contextmanager
def replaced_embedding(patient: Patient, values: list[float]) -> Iterator[None]:
    """Write another embedding past Ragstone while the block runs."""
    table = patient.embedding
    ((chunk_id, before),) = patient.sql(f"SELECT chunk_id, embedding::text FROM {table} ORDER BY chunk_id LIMIT 1")
    written = f"UPDATE {table} SET embedding = %s::halfvec WHERE chunk_id = %s"
    patient.sql(written, str(values), chunk_id)
    yield
    patient.sql(written, before, chunk_id)


@contextmanager
def index_out_of_order(patient: Patient) -> Iterator[None]:
    """Keep HNSW from being written to, as a lost page would, while the block runs."""
    ready = "UPDATE pg_index SET indisready = %s WHERE indexrelid = %s::regclass"
    patient.sql(ready, False, patient.hnsw)
    yield
    patient.sql(ready, True, patient.hnsw)
