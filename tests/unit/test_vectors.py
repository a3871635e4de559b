"""Embeddings at the door: checked, normalised, rounded, and the caller's array left alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backends.errors import InvalidEmbedding
from backends.types import IndexSpec, Metric
from backends.vectors import exact_scores, prepare, prepare_one

COSINE = IndexSpec(dimension=3)
L2 = IndexSpec(dimension=3, metric="l2")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1.0, 2.0]], r"found shape \[1, 2\]; needed \[n, 3\]"),
        ([1.0, 2.0, 3.0], r"found shape \[3\]"),
        ([[1.0, float("nan"), 0.0]], "NaN or an infinite"),
        ([[1.0, float("inf"), 0.0]], "NaN or an infinite"),
        ([[0.0, 0.0, 0.0]], "only zeros"),
        ([["a", "b", "c"]], "found dtype"),
        ([[1.0], [1.0, 2.0]], "not an array"),
    ],
)
def test_a_wrong_embedding_is_refused(values: object, words: str) -> None:
    """Shape, dtype and value errors say what was found and what is needed."""
    with pytest.raises(InvalidEmbedding, match=words):
        prepare(values, COSINE)


def test_the_error_names_the_row() -> None:
    """Among many rows, the wrong one is named, beyond the first slice too."""
    values = np.ones((1_000, 3), np.float32)
    values[777, 1] = np.nan
    with pytest.raises(InvalidEmbedding) as caught:
        prepare(values, COSINE)
    assert caught.value.field == "embeddings[777]"


def test_values_beyond_half_precision_are_refused_after_rounding() -> None:
    """70,000 is finite, but not as a half; single precision takes it."""
    with pytest.raises(InvalidEmbedding, match="beyond 65504"):
        prepare([[70_000.0, 0, 0]], L2)
    assert prepare([[70_000.0, 0, 0]], IndexSpec(dimension=3, metric="l2", precision="single"))[0, 0] == 70_000


def test_zero_has_a_place_where_there_is_no_direction() -> None:
    """Under the Euclidean distance a zero embedding is a point like any other."""
    assert not prepare([[0.0, 0.0, 0.0]], L2).any()


def test_the_callers_array_is_left_alone() -> None:
    """Normalising happens on a copy, also for awkward layouts and byte orders."""
    values = np.array([[3.0, 4.0, 0.0], [1.0, 1.0, 1.0]], dtype=">f8")[::-1]
    before = values.copy()
    prepared = prepare(values, COSINE)
    assert (values == before).all()
    assert prepared.dtype == np.float32
    assert np.allclose(prepared[1], [0.6, 0.8, 0.0], atol=1e-3)


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(-1e300, 1e300)))
def test_what_is_prepared_under_cosine_has_length_one(values: np.ndarray) -> None:
    """Huge and tiny values neither overflow nor vanish; zeros are refused."""
    if not values.any(axis=1).all():
        with pytest.raises(InvalidEmbedding):
            prepare(values, COSINE)
        return
    norms = np.linalg.norm(prepare(values, COSINE).astype(np.float64), axis=1)
    assert np.allclose(norms, 1, atol=1e-3)


@pytest.mark.parametrize(("metric", "expected"), [("cosine", 0.6), ("inner_product", 3.0), ("l2", -(20**0.5))])
def test_scores_by_hand(metric: str, expected: float) -> None:
    """Query (1, 0) against (3, 4): cosine 3/5, product 3, distance sqrt(4 + 16)."""
    spec = IndexSpec(dimension=2, metric=metric)  # type: ignore[arg-type]
    query, stored = prepare([[1.0, 0.0]], spec)[0], prepare([[3.0, 4.0]], spec)
    assert exact_scores(query, stored, spec)[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
@pytest.mark.parametrize("value", [1e300, -1e300, float("inf"), float("nan")])
def test_one_embedding_out_of_range_is_refused_without_a_warning(metric: Metric, value: float) -> None:
    """As many are: the short way of one embedding leaves them to the careful one."""
    spec = IndexSpec(dimension=3, metric=metric, precision="half")
    given = np.array([value, value, 1.0])
    if metric == "cosine" and abs(value) == 1e300:
        assert np.isfinite(prepare_one(given, spec, "embedding")).all()
        return
    with pytest.raises(InvalidEmbedding):
        prepare_one(given, spec, "embedding")
