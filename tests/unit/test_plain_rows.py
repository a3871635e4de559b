"""The quick checks of bulk rows: they never take what the careful ones refuse, and what they make means the same."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backends.corpus.encoding import encode_embeddings
from backends.errors import InvalidDocument, InvalidEmbedding
from backends.filters import check_metadata, check_text
from backends.types import IndexSpec, Metric, Precision
from backends.vectors import prepare_kept
from retrieval.bulk import BulkEmbeddings
from retrieval.checking import check_id
from retrieval.plain_rows import are_texts, are_usable, flat_metadata

TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from(["},\n{", "\n", '"', "\\", "}\n,{"])
)
VALUES = st.one_of(SCALARS, SCALARS, st.just(10**308), st.just(-(10**308)), st.lists(SCALARS, max_size=2))
KEYS = st.one_of(st.sampled_from(["a", "b c", "ä", "x[0]"]), TEXTS)
METADATA = st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=4)


@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from([None, 8, 1_024]))
def test_texts_that_are_taken_would_be_taken_one_by_one(texts: list[str], max_bytes: int | None) -> None:
    """NUL, lone surrogates and sizes; plain ones are taken."""
    taken = are_texts(texts, max_bytes)
    try:
        for text in texts:
            check_text(text, "text", InvalidDocument)
    except InvalidDocument:
        assert not taken
    else:
        plain = max_bytes is None or all(1 <= 4 * len(text) <= max_bytes for text in texts)
        assert taken == plain
    if taken and max_bytes is not None:
        assert all(check_id(text, "id") and len(text.encode()) <= max_bytes for text in texts)


@pytest.mark.parametrize("values", [[], ["a", 1], [b"a"], [None], ["a", "\0"], ["\ud800", "\udc00"]])
def test_what_is_no_plain_text_is_left_to_the_careful_checks(values: list[Any]) -> None:
    """Two halves of a surrogate pair, each in a string of its own, are no character."""
    assert not are_texts(values)


@given(METADATA)
def test_metadata_that_is_taken_means_the_same(metadata: list[dict[str, Any]]) -> None:
    """Row by row, also where strings look like what parts the rows."""
    try:
        carefully = [check_metadata(one) for one in metadata]
    except InvalidDocument:
        assert flat_metadata(metadata) is None
        return
    flat = not any(isinstance(value, list) for one in metadata for value in one.values())
    quickly = flat_metadata(metadata)
    assert (quickly is not None) == flat
    if quickly is not None:
        assert [json.loads(text) for text in quickly] == [json.loads(text) for text in carefully]


@pytest.mark.parametrize(
    "metadata",
    [
        [{"a": 1}, None],
        [{"a": {"b": 1}}],
        [{"a": object()}],
        [{1: "a"}],
        [{"": "a"}],
        [{"a": "x" * 40_960}],
        [{"a": 10**5_000}],
        [{"a": float("nan")}],
        [{"a": 1}, {"a": "\ud800"}],
        [],
    ],
)
def test_metadata_that_is_not_flat_is_left_to_the_careful_checks(metadata: list[Any]) -> None:
    """Whether they then take it or not."""
    assert flat_metadata(metadata) is None


@given(
    hnp.arrays(
        st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.uint8]),
        st.tuples(st.integers(1, 3), st.just(3)),
    ),
    st.sampled_from(["cosine", "inner_product", "l2"]),
    st.sampled_from(["half", "single"]),
)
def test_embeddings_that_are_taken_are_kept_as_if_prepared(
    matrix: np.ndarray, metric: Metric, precision: Precision
) -> None:
    """Bit by bit, though where nothing is left but rounding it is left to the encoding."""
    spec = IndexSpec(dimension=3, metric=metric, precision=precision)
    taken = are_usable(matrix, spec)
    try:
        prepared = prepare_kept(matrix, spec)
    except InvalidEmbedding:
        assert not taken
        return
    if taken:
        ids = np.arange(len(matrix))
        rows = BulkEmbeddings(matrix, spec)[0 : len(matrix)]
        assert encode_embeddings(ids, rows, precision) == encode_embeddings(ids, prepared, precision)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e30])
def test_one_wrong_value_among_many_is_seen(metric: Metric, wrong: float) -> None:
    """Beyond the first slice, too; without it they are plain."""
    matrix = np.random.default_rng(7).normal(size=(600, 3)).astype(np.float32)
    spec = IndexSpec(dimension=3, metric=metric)
    assert are_usable(matrix, spec)
    matrix[555, 1] = wrong
    assert not are_usable(matrix, spec)


def test_a_zero_embedding_has_no_direction() -> None:
    """It is left to the careful checks under cosine alone."""
    matrix = np.ones((300, 3), np.float32)
    matrix[299] = 0
    assert not are_usable(matrix, IndexSpec(dimension=3))
    assert are_usable(matrix, IndexSpec(dimension=3, metric="l2"))


@pytest.mark.parametrize("matrix", [np.ones((2, 4)), np.ones(3), np.ones((2, 3), bool), np.full((2, 3), "a")])
def test_a_wrong_shape_or_dtype_is_left_to_the_careful_checks(matrix: np.ndarray) -> None:
    """They name it."""
    assert not are_usable(matrix, IndexSpec(dimension=3, metric="l2"))


def test_parts_keep_the_order_that_was_asked_for() -> None:
    """A part of embeddings that are to be reordered, and a part of that part."""
    matrix = np.arange(30, dtype=np.float32).reshape(10, 3)
    spec = IndexSpec(dimension=3, metric="l2")
    reversed_ = BulkEmbeddings(matrix, spec, np.arange(10)[::-1])
    assert (reversed_.part(slice(2, 8))[1:3] == matrix[[6, 5]]).all()
    assert (BulkEmbeddings(matrix, spec).part(slice(2, 8))[1:3] == matrix[[3, 4]]).all()
