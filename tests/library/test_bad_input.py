"""Bad input: a clear error that names the field and the fix, and nothing changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrieval
from backends.errors import (
    CollectionExists,
    CollectionNotFound,
    CorpusUnavailable,
    DuplicateId,
    InvalidDocument,
    InvalidEmbedding,
    InvalidFilter,
    InvalidInput,
    InvalidName,
    InvalidSettings,
    ModelMismatch,
    NotBuiltYet,
)
from retrieval import Collection, Document, Ragstone
from retrieval.config import load

NAN, INF = float("nan"), float("inf")
GOOD = Document(id="good", text="good")


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        (Document(id="a", text=""), "documents[1].text", "found no text"),
        (Document(id="a", text=" \n"), "documents[1].text", "found no text"),
        (Document(id="a", text="x\0y"), "documents[1].text", "NUL character at 1"),
        (Document(id="a", text="\ud800"), "documents[1].text", "lone surrogate"),
        (Document(id="a", text=5), "documents[1].text", "found int"),  # type: ignore[arg-type]
        (Document(id="", text="x"), "documents[1].id", "found 0 bytes"),
        (Document(id="i" * 2_000, text="x"), "documents[1].id", "found 2000 bytes"),
        (Document(id="a\0", text="x"), "documents[1].id", "NUL"),
        (Document(id="a", text="x", title="t" * 20_000), "documents[1].title", "at most 10000"),
        (Document(id="a", text="x", metadata={"k'": 1}), "documents[1].metadata", "letters, digits"),
        (Document(id="a", text="x", metadata={"k": NAN}), "documents[1].metadata.k", "finite"),
        ("text", "documents[1]", "found str"),
    ],
)
def test_a_bad_document_spoils_its_batch_and_nothing_else(
    texts: Collection, document: Any, field: str, words: str
) -> None:
    """The whole batch is refused before anything is written."""
    with pytest.raises(InvalidDocument) as caught:
        texts.upsert([GOOD, document])
    assert caught.value.field == field
    assert words in str(caught.value)
    assert texts.count() == 0


def test_an_id_twice_in_one_batch_is_refused(texts: Collection, vectors: Collection) -> None:
    """For texts and for embeddings alike, both places are named."""
    with pytest.raises(DuplicateId, match=r"documents\[1\].id: 'good' is the id of documents\[0\] too"):
        texts.upsert([GOOD, GOOD])
    with pytest.raises(DuplicateId):
        vectors.upsert_embeddings(["a", "a"], np.ones((2, 3)), ["", ""])
    assert (texts.count(), vectors.count()) == (0, 0)


@pytest.mark.parametrize(
    ("embeddings", "words"),
    [
        ([[1, 2]], r"found shape \[1, 2\]; needed \[n, 3\]"),
        ([[1, 2, NAN]], "NaN"),
        ([[1, 2, INF]], "infinite"),
        ([[0, 0, 0]], "zeros"),
        ([[1, 2, 3], [1, 2, 3]], "found 2 rows; needed 1"),
        ("abc", "dtype"),
    ],
)
def test_a_bad_embedding_is_refused(vectors: Collection, embeddings: object, words: str) -> None:
    """Dimension, NaN, infinity and zero, with what was found and what is needed."""
    with pytest.raises(InvalidEmbedding, match=words):
        vectors.upsert_embeddings(["a"], embeddings, ["a"])
    assert vectors.count() == 0


def test_a_query_of_another_dimension_is_refused(vectors: Collection) -> None:
    """A search says which dimension the collection has."""
    with pytest.raises(InvalidEmbedding, match=r"embedding: found shape \[4\]; needed \[3\]"):
        vectors.search([1, 2, 3, 4])


@pytest.mark.parametrize("name", ["a/b", 'a"b', "a'b", "", "x" * 10_000, "../x", "-x", "é", 5, "a b", "a\0"])
def test_a_bad_name_is_refused(rag: Ragstone, name: Any) -> None:
    """Slashes, quotes, 10,000 letters: the error is short and says what a name is made of."""
    with pytest.raises(InvalidName, match="needed 1 to 100 of the characters") as caught:
        rag.create_collection(name, dimension=3)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("top_k", [0, -1, 1_000_000, pytest.param(10**5_000, id="5,001 digits"), 2.5, "3", True, None])
def test_a_bad_top_k_is_refused(vectors: Collection, top_k: Any) -> None:
    """Zero and a million alike."""
    with pytest.raises(InvalidInput, match=r"top_k: found .*; needed a whole number from 1 to 1000"):
        vectors.search([1, 2, 3], top_k=top_k)


@pytest.mark.parametrize("query", ["", "  ", "a\0", 5])
def test_a_bad_query_is_refused(texts: Collection, query: Any) -> None:
    """An empty query has no meaning to look for."""
    with pytest.raises(InvalidInput, match="query"):
        texts.retrieve(query)


@pytest.mark.parametrize("given", [{"a": {"$like": 1}}, {"a' OR 1=1 --": 1}, [], "x"])
def test_a_bad_filter_is_refused_by_every_door(vectors: Collection, given: Any) -> None:
    """Searches and deletes refuse it alike, and nothing is deleted."""
    vectors.upsert_embeddings(["a"], [[1, 2, 3]], ["a"])
    with pytest.raises(InvalidFilter):
        vectors.search([1, 2, 3], filter=given)
    with pytest.raises(InvalidFilter):
        vectors.delete(filter=given)
    assert vectors.count() == 1


def test_a_string_is_no_list_of_ids(vectors: Collection) -> None:
    """Its characters are not taken for ids."""
    vectors.upsert_embeddings(["a", "b"], np.ones((2, 3)), ["", ""])
    with pytest.raises(InvalidInput, match="ids: found 'ab'; needed a list"):
        vectors.delete(ids="ab")
    with pytest.raises(InvalidInput, match="ids: found 'ab'; needed a list"):
        vectors.upsert_embeddings("ab", np.ones((2, 3)), ["", ""])
    assert vectors.count() == 2


def test_an_empty_delete_is_refused(vectors: Collection) -> None:
    """An empty filter would delete everything: that has a method of its own."""
    with pytest.raises(InvalidFilter, match="delete_all"):
        vectors.delete(filter={})
    with pytest.raises(InvalidInput, match="one of the two"):
        vectors.delete()
    with pytest.raises(InvalidInput, match="one of the two"):
        vectors.delete(ids=["a"], filter={"a": 1})


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_what_is_not_built_yet_says_so(texts: Collection, mode: str) -> None:
    """Pinned in the interface, and honest about it."""
    with pytest.raises(NotBuiltYet, match="not built yet"):
        texts.retrieve("leave", mode=mode)
    with pytest.raises(InvalidInput, match="mode"):
        texts.retrieve("leave", mode="telepathy")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"dimension": 0}, InvalidInput, "needed 1 to 4000"),
        ({"dimension": 5_000}, InvalidInput, "needed 1 to 4000"),
        ({"dimension": 3_000, "precision": "single"}, InvalidInput, "needed 1 to 2000"),
        ({"dimension": 3, "metric": "hamming"}, InvalidInput, "cosine, inner_product, l2"),
        ({"dimension": 3, "precision": "double"}, InvalidInput, "half, single"),
        ({"dimension": 3, "embedding_model": "hashing"}, InvalidInput, "needed one of them"),
        ({"embedding_model": "some/other-model"}, ModelMismatch, "this service embeds with 'hashing'"),
    ],
)
def test_bad_options_make_no_collection(
    rag: Ragstone, name: str, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Each option is checked before a table is made."""
    with pytest.raises(error, match=words):
        rag.create_collection(name, **options)
    assert name not in rag.collections()


def test_collections_that_are_there_or_not(rag: Ragstone, texts: Collection) -> None:
    """A second of the same name, and one that nobody made."""
    with pytest.raises(CollectionExists, match="exists already"):
        rag.create_collection(texts.name, dimension=3)
    for attempt in (rag.collection, rag.delete_collection):
        with pytest.raises(CollectionNotFound, match="there is no collection 'nobody'"):
            attempt("nobody")


def test_a_collection_deleted_elsewhere_is_reported(rag: Ragstone, postgres_url: str, name: str) -> None:
    """Every operation on it says that it is gone; none fails otherwise."""
    collection = rag.create_collection(name, dimension=3)
    with retrieval.open(postgres_url, settings=load(embedding_model="hashing")) as other:
        other.delete_collection(name)
    attempts: list[Callable[[], object]] = [
        lambda: collection.search([1, 2, 3]),
        lambda: collection.search([1, 2, 3], filter={"a": 1}),
        lambda: collection.upsert_embeddings(["a"], [[1, 2, 3]], ["a"]),
        lambda: collection.delete(ids=["a"]),
        lambda: collection.get("a"),
        lambda: collection.documents(),
        collection.count,
    ]
    for attempt in attempts:
        with pytest.raises(CollectionNotFound):
            attempt()


def test_a_database_that_is_not_there_is_unavailable() -> None:
    """The error says what could not be reached."""
    with pytest.raises(CorpusUnavailable, match="cannot be reached"):
        retrieval.open("postgresql://nobody@127.0.0.1:1/none")


def test_a_model_that_is_not_there_is_a_wrong_setting(postgres_url: str, name: str, tmp_path: Path) -> None:
    """Nothing is fetched: the path is named, and what is needed."""
    with (
        retrieval.open(postgres_url, settings=load(embedding_model=str(tmp_path / "none"))) as rag,
        pytest.raises(InvalidSettings, match="embedding_model"),
    ):
        rag.create_collection(name)


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment as from keywords."""
    monkeypatch.setenv("RAGSTONE_TAIL_LIMIT", "many")
    with pytest.raises(InvalidSettings, match="tail_limit"):
        load()
