"""Documents through the library: written, found, replaced, deleted."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import retrieval
from backends.errors import Conflict, FilterTooExpensive, ModelMismatch
from retrieval import Collection, Document, Ragstone, UpsertResult
from retrieval.config import load

LEAVE = Document(id="leave", title="Leave", text="Thirty days of paid leave a year.", metadata={"year": 2026})
CARS = Document(id="cars", title="Cars", text="Company cars are washed on Fridays.", metadata={"year": 2019})
LONG = Document(
    id="long", text="\n\n".join(f"Paragraph {n} speaks of subject{n} and of little else. " * 8 for n in range(30))
)


def test_what_is_upserted_is_found_and_given_back(texts: Collection) -> None:
    """A hit points at its document, and the document comes back as it was given."""
    assert texts.upsert([LEAVE, CARS]) == UpsertResult(upserted=2, unchanged=0, chunks=2)
    hits = texts.retrieve("paid leave", top_k=1)
    assert [(hit.id, hit.document_id, hit.text) for hit in hits] == [("leave", "leave", LEAVE.text)]
    assert texts.get("leave") == LEAVE
    assert texts.get("nobody") is None
    assert texts.count() == 2
    assert texts.documents() == [CARS, LEAVE]
    assert texts.documents(after="cars") == [LEAVE]


def test_an_unchanged_document_costs_nothing(rag: Ragstone, texts: Collection) -> None:
    """The second time nothing is embedded, and the change sequence stands still."""
    texts.upsert([LEAVE, CARS])
    before, sequence = rag.embedder.stats().texts, texts.info().sequence
    assert texts.upsert([LEAVE, CARS]) == UpsertResult(upserted=0, unchanged=2, chunks=0)
    assert rag.embedder.stats().texts == before
    assert texts.info().sequence == sequence


def test_a_change_of_metadata_embeds_nothing(rag: Ragstone, texts: Collection) -> None:
    """New metadata is found by its filter; the embedding is the old one."""
    texts.upsert([LEAVE])
    before = rag.embedder.stats().texts
    changed = Document(id="leave", title="Leave", text=LEAVE.text, metadata={"year": 2027})
    assert texts.upsert([changed]) == UpsertResult(upserted=1, unchanged=0, chunks=1)
    assert rag.embedder.stats().texts == before
    assert texts.get("leave") == changed
    assert [hit.id for hit in texts.retrieve("leave", filter={"year": 2027})] == ["leave"]
    assert texts.retrieve("leave", filter={"year": 2026}) == []


def test_a_changed_document_is_replaced(texts: Collection) -> None:
    """The old text is gone, the new one is found; other documents stay."""
    texts.upsert([LEAVE, CARS])
    texts.upsert([Document(id="leave", text="Everybody works always.")])
    assert texts.retrieve("everybody works always", top_k=1)[0].id == "leave"
    assert all("paid" not in hit.text for hit in texts.retrieve("paid leave"))
    assert texts.count() == 2


def test_a_long_document_has_numbered_chunks_that_cover_it(texts: Collection) -> None:
    """Each hit is exactly its span of the text; the document comes back whole."""
    texts.upsert([LONG])
    info = texts.info()
    assert (info.documents, info.chunks > 3) == (1, True)
    hits = texts.retrieve("subject17", top_k=100)
    assert len(hits) == info.chunks
    assert sorted(hit.id for hit in hits) == sorted(f"long#{n}" for n in range(1, info.chunks + 1))
    assert all(LONG.text[hit.start : hit.end] == hit.text for hit in hits)
    spans = sorted((hit.start, hit.end) for hit in hits)
    assert all(after[0] - before[1] <= 3 for before, after in pairwise(spans))
    assert texts.get("long") == LONG


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=3_000).filter(
            lambda text: bool(text.strip())
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_text_comes_back_as_it_was_given(texts: Collection, bodies: list[str]) -> None:
    """White space, line endings and every script survive; hits are spans of the text."""
    documents = [Document(id=f"d{n}", text=body, title="T" * n) for n, body in enumerate(bodies)]
    texts.delete_all()
    texts.upsert(documents)
    assert texts.documents() == documents
    by_id = {document.id: document.text for document in documents}
    assert all(by_id[hit.document_id][hit.start : hit.end] == hit.text for hit in texts.retrieve("a", top_k=50))


def test_deletes_by_id_by_filter_and_all(texts: Collection) -> None:
    """Each way says how many documents it deleted."""
    texts.upsert([LEAVE, CARS, LONG])
    assert texts.delete(ids=["leave", "leave", "nobody"]) == 1
    assert texts.delete(filter={"year": {"$lt": 2020}}) == 1
    assert [hit.document_id for hit in texts.retrieve("leave cars", top_k=1)] == ["long"]
    assert texts.delete_all() == 1
    assert (texts.count(), texts.retrieve("anything")) == (0, [])


def test_own_embeddings_in_bulk(vectors: Collection) -> None:
    """Upserted again they replace; a search gives text, metadata and the cosine."""
    embeddings = np.array([[1, 0, 0], [0, 2, 0], [3, 3, 0]], np.float32)
    for _ in range(2):
        result = vectors.upsert_embeddings(["x", "y", "xy"], embeddings, ["X", "Y", "XY"], [{"n": n} for n in range(3)])
        assert result == UpsertResult(upserted=3, unchanged=0, chunks=3)
    hits = vectors.search([1, 0, 0], top_k=2)
    assert [(hit.id, hit.text, hit.metadata) for hit in hits] == [("x", "X", {"n": 0}), ("xy", "XY", {"n": 2})]
    assert [hit.score for hit in hits] == pytest.approx([1, 0.5**0.5], abs=1e-4)
    assert vectors.search([1, 0, 0], top_k=2, exact=True) == hits
    assert [hit.id for hit in vectors.search([1, 0, 0], filter={"n": 1})] == ["y"]
    assert vectors.get("x") == Document(id="x", text="X", metadata={"n": 0})


def test_texts_and_own_embeddings_do_not_mix(texts: Collection, vectors: Collection) -> None:
    """Neither kind of collection takes what the other is for, and the error says what to use."""
    with pytest.raises(Conflict, match="use upsert_embeddings and search"):
        vectors.upsert([LEAVE])
    with pytest.raises(Conflict, match="use upsert_embeddings and search"):
        vectors.retrieve("leave")
    with pytest.raises(Conflict, match="is embedded by"):
        texts.upsert_embeddings(["a"], np.ones((1, texts.info().dimension)), ["a"])
    assert (texts.count(), vectors.count()) == (0, 0)


def test_another_model_is_refused_also_at_equal_dimension(
    rag: Ragstone, postgres_url: str, texts: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection remembers what embedded it: text embedded otherwise is refused, and nothing is changed."""
    texts.upsert([LEAVE])
    with retrieval.open(postgres_url, settings=load(embedding_model="hashing")) as other:
        stamp = other.embedder.stamp
        monkeypatch.setattr(other.embedder, "stamp", type(stamp)(**{**stamp.as_dict(), "revision": "another"}))
        collection = other.collection(texts.name)
        for attempt in (lambda: collection.upsert([CARS]), lambda: collection.retrieve("leave")):
            with pytest.raises(ModelMismatch, match="revision"):
                attempt()
    assert texts.count() == 1


def test_a_collection_keeps_the_chunker_that_it_began_with(postgres_url: str, texts: Collection) -> None:
    """Other settings are for new collections: the same document is still unchanged here."""
    texts.upsert([LONG])
    smaller = load(embedding_model="hashing", chunk_tokens=40, chunk_overlap_tokens=0)
    with retrieval.open(postgres_url, settings=smaller) as other:
        assert other.collection(texts.name).upsert([LONG]).unchanged == 1


def test_an_answer_cites_spans_of_documents(texts: Collection) -> None:
    """Each citation's text is exactly the span that it names; events come in order."""
    texts.upsert([LEAVE, CARS])
    answer = texts.generate("How many days of paid leave?")
    assert "[1]" in answer.text
    assert LEAVE.text[answer.citations[0].start : answer.citations[0].end] == answer.citations[0].text
    kinds = [type(event).__name__ for event in texts.stream("How many days of paid leave?")]
    assert (kinds[0], kinds[-1]) == ("HitsEvent", "AnswerEvent")
    assert {"embed", "search", "generate"} <= answer.timings_ms.keys()


def test_a_question_that_nothing_answers_is_refused_plainly(texts: Collection) -> None:
    """No hit is near enough: the answer says so, and cites nothing."""
    texts.upsert([LEAVE])
    answer = texts.generate("zebra xylophone quartz")
    assert answer.refused
    assert not answer.citations


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_refusal_means_the_same_under_every_metric(rag: Ragstone, name: str, metric: str) -> None:
    """The threshold is a cosine, also where scores are distances."""
    collection = rag.create_collection(name, metric=metric)  # type: ignore[arg-type]
    collection.upsert([LEAVE])
    assert not collection.generate("How many days of paid leave?").refused
    assert collection.generate("zebra xylophone quartz").refused
    rag.delete_collection(name)


def test_the_index_is_built_in_the_background_and_searched(postgres_url: str, name: str) -> None:
    """Below index_min_chunks every search is exact; past it HNSW is built, and writes go into it."""
    settings_ = load(embedding_model="hashing", index_min_chunks=200)
    rng = np.random.default_rng(1)
    with retrieval.open(postgres_url, settings=settings_) as rag:
        collection = rag.create_collection(name, dimension=8)
        try:
            embeddings = rng.normal(size=(300, 8))
            collection.upsert_embeddings([f"d{n}" for n in range(150)], embeddings[:150], ["t"] * 150)
            collection.wait_until_indexed(timeout_s=30)
            assert collection.search_with_timings(embeddings[0]).exact
            collection.upsert_embeddings([f"d{n}" for n in range(150, 300)], embeddings[150:], ["t"] * 150)
            collection.wait_until_indexed(timeout_s=30)
            assert collection.info().indexed
            collection.upsert_embeddings(["new"], embeddings[:1] + 1, ["new"])
            found = collection.search_with_timings(embeddings[0] + 1, top_k=1)
            assert not found.exact
            assert found.hits[0].id == "new"
        finally:
            rag.delete_collection(name)


def test_a_search_past_its_budget_says_so_and_never_returns_fewer(postgres_url: str, name: str) -> None:
    """Two hundred conditions on twenty thousand chunks: past the budget that is a clear error."""
    with retrieval.open(postgres_url, settings=load(embedding_model="hashing", statement_budget_ms=10)) as rag:
        collection = rag.create_collection(name, dimension=64)
        try:
            ids = [f"d{n}" for n in range(20_000)]
            collection.upsert_embeddings(ids, np.random.default_rng(0).normal(size=(20_000, 64)), ids)
            with pytest.raises(FilterTooExpensive, match=r"statement_budget_ms \(10\)"):
                collection.search(np.ones(64), filter={"year": {"$nin": list(range(200))}}, exact=True)
        finally:
            rag.delete_collection(name)


def test_a_short_and_a_long_version_written_at_once_leave_one_document(texts: Collection) -> None:
    """Whoever is last wins: never one document with the chunks of both."""
    short = Document(id="long", text="A short version.")
    for turn in range(6):
        versions = [LONG, short] if turn % 2 else [short, LONG]
        threads = [threading.Thread(target=texts.upsert, args=([version],)) for version in versions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts.count() == 1
        assert texts.get("long") in (LONG, short)
        texts.delete_all()


@pytest.mark.parametrize("value", [1e23, 10**23, 1.0, True, [0.1, 1e300, None], {"deep": [1e25]}])
def test_metadata_that_json_writes_otherwise_is_unchanged(texts: Collection, value: object) -> None:
    """PostgreSQL gives some numbers back in another form; that is no change."""
    document = Document(id="a", text="a", metadata={"value": value})
    texts.upsert([document])
    assert texts.upsert([document]).unchanged == 1


def test_true_and_one_are_different_metadata(texts: Collection) -> None:
    """Though Python takes them for equal."""
    texts.upsert([Document(id="a", text="a", metadata={"value": True})])
    assert texts.upsert([Document(id="a", text="a", metadata={"value": 1})]).upserted == 1


def test_a_server_builds_what_another_process_left_unbuilt(postgres_url: str, name: str) -> None:
    """A search that has to do without its index sees to it, also in a process that never writes."""
    settings_ = load(embedding_model="hashing", index_min_chunks=100)
    with retrieval.open(postgres_url, settings=settings_) as reader, retrieval.open(postgres_url) as writer:
        writer.create_collection(name, dimension=8)
        collection = reader.collection(name)
        try:
            embeddings = np.random.default_rng(0).normal(size=(200, 8))
            writer.collection(name).upsert_embeddings([f"d{n}" for n in range(200)], embeddings, [""] * 200)
            deadline = time.monotonic() + 30
            while not collection.info().indexed and time.monotonic() < deadline:
                collection.search(embeddings[0])
                time.sleep(0.2)
            assert collection.info().indexed
            names = (f"chunk_{collection._state.id}_metadata",)
            with reader.database.connection() as connection:
                row = connection.execute(
                    "SELECT indisvalid FROM pg_index WHERE indexrelid = ('ragstone.' || %s)::regclass", names
                ).fetchone()
            assert row == (True,)
        finally:
            reader.delete_collection(name)
