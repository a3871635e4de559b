"""How the size of a pass follows the measured speed."""

from hypothesis import given
from hypothesis import strategies as st

from retrieval.embedding.pace import LEAST_WORTHWHILE_TOKENS, LONGEST_RETRY_S, PASS_TARGET_S, SHORTEST_RETRY_S, Pace


def run_full_passes(pace, tokens_per_s, passes=60):
    for _ in range(passes):
        pace.observe(pace.budget_tokens, pace.budget_tokens / tokens_per_s)


@given(tokens_per_s=st.floats(min_value=10, max_value=1e8), batch_tokens=st.integers(min_value=1, max_value=100_000))
def test_the_budget_settles_at_what_the_model_does_in_the_target_time(tokens_per_s, batch_tokens):
    """After full passes at one speed the budget is that speed times the target, within sensible bounds."""
    pace = Pace(batch_tokens)
    run_full_passes(pace, tokens_per_s)
    settled = min(max(tokens_per_s * PASS_TARGET_S, LEAST_WORTHWHILE_TOKENS), batch_tokens)
    assert settled * 0.999 - 1 <= pace.budget_tokens <= settled * 1.001


def test_small_passes_do_not_move_the_budget():
    """A single short query, which is slow for its size, says nothing about a full pass."""
    pace = Pace(8_192)
    before = pace.budget_tokens
    pace.observe(10, 0.02)
    assert pace.budget_tokens == before


def test_one_disturbed_pass_moves_the_budget_by_a_fifth_at_most():
    """A pass that took a hundred times as long does not end large passes."""
    pace = Pace(8_192)
    run_full_passes(pace, 40_000)
    before = pace.budget_tokens
    pace.observe(before, before / 400)
    assert pace.budget_tokens >= before / 1.25


def test_a_budget_that_was_shrunk_to_nothing_grows_again():
    """Running out of memory with one token leaves a budget of 1, which full passes raise."""
    pace = Pace(8_192)
    pace.shrink(1)
    assert pace.budget_tokens == 1
    run_full_passes(pace, 1e6)
    assert pace.budget_tokens == 8_192


def test_the_retry_hint_is_the_time_that_the_waiting_tokens_take():
    """Ten thousand tokens at five thousand a second are two seconds; hints stay within sensible bounds."""
    pace = Pace(8_192)
    pace.observe(1_000, 0.2)
    assert pace.retry_after_s(10_000) == 2.0
    assert pace.retry_after_s(0) == SHORTEST_RETRY_S
    assert pace.retry_after_s(10**9) == LONGEST_RETRY_S
