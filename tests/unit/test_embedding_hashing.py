"""The stamp, and the embedder whose answers can be worked out in one's head."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.embedding.hashing import HashingEmbedder

EMBEDDER = HashingEmbedder()


@given(texts=st.lists(st.text(max_size=60), max_size=5))
def test_every_text_has_an_embedding_of_length_one(texts):
    """Any text at all, also one without words, gives a finite row of length 1."""
    embeddings = EMBEDDER.embed(texts, "passage")
    assert embeddings.shape == (len(texts), 64)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_the_same_words_have_the_same_embedding():
    """Order, case and punctuation do not matter."""
    first, second = EMBEDDER.embed(["The cat, the dog.", "DOG the cat the"], "query")
    np.testing.assert_array_equal(first, second)


def test_the_cosine_is_the_share_of_common_words():
    """One word of two in common, and the cosine is a half."""
    assert len({EMBEDDER.component(word) for word in ("cat", "dog", "bird")}) == 3
    left, right = EMBEDDER.embed(["cat dog", "dog bird"], "query")
    assert left @ right == pytest.approx(0.5)


def test_a_word_counts_as_often_as_it_stands_there():
    """Three cats and four dogs make a triangle of sides 3, 4 and 5."""
    embedding = EMBEDDER.embed(["cat cat cat dog dog dog dog"], "passage")[0]
    assert embedding[EMBEDDER.component("cat")] == pytest.approx(0.6)
    assert embedding[EMBEDDER.component("dog")] == pytest.approx(0.8)


def test_a_text_without_words_is_the_first_axis():
    """Punctuation alone still has a place."""
    np.testing.assert_array_equal(EMBEDDER.embed(["?!"], "query")[0], np.eye(64)[0])


def test_words_are_tokens():
    """Spans point at the words."""
    text = "Cats, dogs"
    assert [text[start:end] for start, end in EMBEDDER.token_spans(text)] == ["Cats", "dogs"]
    assert EMBEDDER.token_spans("?!").shape == (0, 2)


def test_what_is_beyond_the_length_is_not_read():
    """The 513th word changes nothing."""
    long = ["word " * 512, "word " * 512 + "other"]
    first, second = EMBEDDER.embed(long, "passage")
    np.testing.assert_array_equal(first, second)
    assert [text.tokens for text in EMBEDDER.prepare(long, "passage")] == [512, 512]


def test_stamps_match_across_floating_point_arithmetics():
    """Half precision on a GPU and float32 on a CPU may be compared; quantised arithmetic may not."""
    exact = EMBEDDER.stamp
    assert exact.matches(replace(exact, numerics="float16"))
    assert replace(exact, numerics="bfloat16").matches(exact)
    assert not exact.matches(replace(exact, numerics="int8-per-channel"))
    assert replace(exact, numerics="int8-per-channel").matches(replace(exact, numerics="int8-per-channel"))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"revision": "2"},
        {"dimension": 65},
        {"normalised": False},
        {"query_prefix": "query: "},
        {"passage_prefix": "passage: "},
    ],
)
def test_stamps_of_anything_else_do_not_match(change):
    """Whatever else differs makes embeddings that cannot be compared."""
    assert not EMBEDDER.stamp.matches(replace(EMBEDDER.stamp, **change))
