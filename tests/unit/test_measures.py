"""The measures, each against numbers worked out by hand."""

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import InvalidInput
from ops.measures import judged_recall, ndcg, percentiles, recall_at_k, reciprocal_rank, trec_order

GRADES = {"a": 3, "b": 2, "c": 1, "d": 0, "e": -1}
TRUE_SCORES = [0.9, 0.8, 0.7, 0.7, 0.5]


def test_recall_counts_the_true_neighbours_returned() -> None:
    """Two of the three nearest were returned, the third was missed: recall@3 is two thirds."""
    assert recall_at_k(["x", "y", "z"], [0.9, 0.7, 0.5], TRUE_SCORES, 3) == pytest.approx(2 / 3)


def test_recall_takes_any_of_several_equally_near_chunks() -> None:
    """Third and fourth are equally near, so that either makes recall@3 perfect, whatever its id."""
    assert recall_at_k(["x", "y", "twin"], [0.9, 0.8, 0.7], TRUE_SCORES, 3) == 1.0


def test_recall_counts_a_score_within_epsilon_and_no_lower() -> None:
    """A score a rounding error below the last true one counts; one clearly below does not."""
    assert recall_at_k(["x"], [0.9 - 5e-6], TRUE_SCORES, 1) == 1.0
    assert recall_at_k(["x"], [0.9 - 5e-5], TRUE_SCORES, 1) == 0.0


def test_recall_counts_a_repeated_id_once() -> None:
    """An index that returns its best hit three times has found one of three."""
    assert recall_at_k(["x", "x", "x"], [0.9, 0.9, 0.9], TRUE_SCORES, 3) == pytest.approx(1 / 3)


def test_recall_looks_at_the_first_top_k_alone() -> None:
    """A true neighbour in the fourth place does not help recall@3."""
    assert recall_at_k(["p", "q", "r", "x"], [0.1, 0.1, 0.1, 0.9], TRUE_SCORES, 3) == 0.0


def test_recall_of_a_small_collection_is_of_what_there_is() -> None:
    """Of two chunks in all, both were returned: recall@10 is 1; an empty collection has nothing to miss."""
    assert recall_at_k(["x", "y"], [0.9, 0.8], [0.9, 0.8], 10) == 1.0
    assert recall_at_k([], [], [], 10) == 1.0


def test_recall_of_negative_scores() -> None:
    """Scores are higher for nearer also where they are minus a distance."""
    assert recall_at_k(["x", "y"], [-1.0, -3.0], [-1.0, -2.0, -3.0], 2) == 0.5


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.integers(1, 40))
def test_an_exact_search_has_recall_one(scores: list[float], top_k: int) -> None:
    """Whatever the scores and their ties, the truth itself has recall 1."""
    ordered = sorted(scores, reverse=True)
    assert recall_at_k(range(len(ordered)), ordered, ordered, top_k) == 1.0


def test_percentiles_are_linear_between_neighbours() -> None:
    """Of 1 to 5 the median is 3 and the 95th percentile four fifths of the way from 4 to 5."""
    assert percentiles([5, 1, 4, 2, 3]) == pytest.approx({"p50": 3.0, "p95": 4.8, "p99": 4.96})


def test_percentiles_of_one_value_are_that_value() -> None:
    """One measurement is its own percentile, and the name says which were asked for."""
    assert percentiles([7.5], percents=(50, 99.9)) == {"p50": 7.5, "p99.9": 7.5}


def test_percentiles_of_nothing_are_refused() -> None:
    """No number is made up where nothing was measured."""
    with pytest.raises(InvalidInput, match="values"):
        percentiles([])


def test_ndcg_of_graded_judgements() -> None:
    """Grades 1, none, 3 in this order, against the ideal 3, 2, 1: linear gains over log2(rank + 1)."""
    ideal = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    assert ndcg(["c", "unknown", "a"], GRADES, 10) == pytest.approx((1 / 1 + 3 / 2) / ideal)


def test_ndcg_of_the_ideal_order_is_one() -> None:
    """The best order has 1, and what gains nothing may stand anywhere behind it."""
    assert ndcg(["a", "b", "c", "d", "unknown", "e"], GRADES, 10) == 1.0


def test_ndcg_cuts_the_ideal_too() -> None:
    """With one place, the ideal is one document of grade 3; grade 2 there makes two thirds."""
    assert ndcg(["b", "a"], GRADES, 1) == pytest.approx(2 / 3)


def test_ndcg_counts_a_grade_below_zero_as_nothing() -> None:
    """A judgement of -1 neither gains nor costs."""
    assert ndcg(["e", "a", "b", "c"], GRADES, 10) == ndcg(["unknown", "a", "b", "c"], GRADES, 10)


def test_judged_recall_counts_relevant_documents() -> None:
    """Of three relevant documents (grade above 0) one is among the first two, all among the first five."""
    ranking = ["d", "b", "e", "a", "c"]
    assert judged_recall(ranking, GRADES, 2) == pytest.approx(1 / 3)
    assert judged_recall(ranking, GRADES, 5) == 1.0


def test_reciprocal_rank_of_the_first_relevant() -> None:
    """The first relevant document stands third: 1/3; with a cut at two there is none: 0."""
    assert reciprocal_rank(["d", "unknown", "c", "a"], GRADES, 10) == pytest.approx(1 / 3)
    assert reciprocal_rank(["d", "unknown", "c", "a"], GRADES, 2) == 0.0


def test_without_relevant_documents_every_measure_is_zero() -> None:
    """A query that no document answers counts as 0, as in trec_eval, not as a division by zero."""
    nothing = {"a": 0}
    assert ndcg(["a"], nothing, 10) == judged_recall(["a"], nothing, 10) == 0.0
    assert reciprocal_rank(["a"], nothing, 10) == 0.0


def test_trec_order_puts_the_greater_id_first_on_ties() -> None:
    """Equal scores are ordered by id from the greatest down, as text: "9" before "10"."""
    assert trec_order({"10": 0.5, "9": 0.5, "a": 0.9, "11": 0.5}) == ["a", "9", "11", "10"]


def test_trec_order_compares_in_single_precision() -> None:
    """Scores that differ only beyond single precision are ties, as trec_eval stores them."""
    assert trec_order({"a": 0.5 + 1e-12, "b": 0.5}) == ["b", "a"]
