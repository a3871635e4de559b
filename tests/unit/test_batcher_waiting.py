"""How passes are cut from the texts that wait."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.embedding.base import Prepared
from retrieval.embedding.waiting import Request, WaitingText, WaitingTexts, padded_tokens

TOKENS = st.lists(st.integers(min_value=1, max_value=300), min_size=1, max_size=40)
BUDGET = st.integers(min_value=1, max_value=2_000)


def make_texts(tokens, kind="passage", name=""):
    request = Request(np.empty((len(tokens), 2), np.float32), len(tokens))
    return [
        WaitingText(f"{name}{row}", kind, Prepared(f"{name}{row}", count), request, row)
        for row, count in enumerate(tokens)
    ]


def take_all(waiting, budget):
    batches = []
    while batch := waiting.take(budget):
        batches.append(batch)
    return batches


@given(tokens=TOKENS, budget=BUDGET)
def test_queries_keep_their_order(tokens, budget):
    """Queries come out in the order in which they came, each once."""
    waiting = WaitingTexts()
    texts = make_texts(tokens, "query")
    waiting.add(texts, "query", object())
    assert [text for batch in take_all(waiting, budget) for text in batch] == texts


@given(callers=st.lists(TOKENS, min_size=1, max_size=4), budget=BUDGET)
def test_every_passage_comes_once_and_within_the_budget(callers, budget):
    """Passages of several callers come out once each, and a pass exceeds the budget only as one text alone."""
    waiting = WaitingTexts()
    added = [make_texts(tokens, name=f"caller {number}, ") for number, tokens in enumerate(callers)]
    for texts in added:
        waiting.add(texts, "passage", object())
    batches = take_all(waiting, budget)
    assert sorted(text.text for batch in batches for text in batch) == sorted(
        text.text for texts in added for text in texts
    )
    assert all(len(batch) == 1 or padded_tokens(batch) <= budget for batch in batches)
    assert waiting.count("passage") == 0


@given(tokens=TOKENS, budget=BUDGET)
def test_a_pass_is_as_full_as_the_budget_allows(tokens, budget):
    """The text that opens the next pass would not have fitted into the one before."""
    waiting = WaitingTexts()
    waiting.add(make_texts(tokens), "passage", object())
    batches = take_all(waiting, budget)
    for batch, following in pairwise(batches):
        assert padded_tokens([*batch, following[0]]) > budget


def test_texts_of_like_length_share_a_pass():
    """One caller's passages are sorted by length, so that little of a pass is padding."""
    waiting = WaitingTexts()
    waiting.add(make_texts([100, 5, 100, 5]), "passage", object())
    assert [[text.prepared.tokens for text in batch] for batch in take_all(waiting, 200)] == [[5, 5], [100, 100]]


def test_queries_go_before_passages():
    """A query that comes after passages is cut first, and not mixed with them."""
    waiting = WaitingTexts()
    waiting.add(make_texts([1, 1]), "passage", object())
    waiting.add(make_texts([1], "query"), "query", object())
    assert [[text.kind for text in batch] for batch in take_all(waiting, 100)] == [["query"], ["passage", "passage"]]


def test_callers_take_turns():
    """A caller with one passage does not wait for all of another's hundred."""
    waiting = WaitingTexts()
    waiting.add(make_texts([10] * 100, name="large"), "passage", object())
    waiting.add(make_texts([10], name="small"), "passage", object())
    batches = take_all(waiting, 50)
    assert "small0" in [text.text for text in batches[1]]


def test_what_a_caller_adds_later_takes_the_same_turn():
    """A second slice of one caller waits behind its first."""
    waiting, caller = WaitingTexts(), object()
    waiting.add(make_texts([10] * 4, name="first"), "passage", caller)
    waiting.add(make_texts([10] * 4, name="second"), "passage", caller)
    assert [text.text[:5] for text in waiting.take(40)] == ["first"] * 4


def test_small_callers_share_a_pass():
    """Passages of several callers go together where they fit."""
    waiting = WaitingTexts()
    for name in "abc":
        waiting.add(make_texts([10], name=name), "passage", object())
    assert [text.text for text in waiting.take(30)] == ["a0", "b0", "c0"]


@given(tokens=TOKENS, kind=st.sampled_from(["query", "passage"]))
def test_what_is_put_back_comes_first(tokens, kind):
    """Of a batch that could not be run the first text is the next to be cut, and the others follow in order."""
    waiting = WaitingTexts()
    waiting.add(make_texts([1], kind, "other"), kind, object())
    texts = make_texts(sorted(tokens), kind)
    waiting.put_back(texts)
    taken = [text for batch in take_all(waiting, 1) for text in batch]
    assert taken[0] is texts[0]
    assert [text for text in taken if text in texts] == texts


def test_passages_that_nobody_wants_are_passed_over():
    """Passages of a caller who has gone cost no forward pass."""
    waiting = WaitingTexts()
    gone, stays = make_texts([1, 1], name="gone"), make_texts([1], name="stays")
    waiting.add(gone, "passage", object())
    waiting.add(stays, "passage", object())
    gone[0].wanted_by[0][0].abandon()
    assert waiting.take(100) == stays
    assert waiting.take(100) == []
