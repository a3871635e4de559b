"""Metadata as tokens: they say what `$eq` says, and a filter narrowed to them never rules out what matches."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backends.filters import MAX_CONDITIONS, Compare, check_metadata, parse
from backends.tokens import MAX_TOKENS, OVERFLOW, HasToken, Narrowing, narrowing, tokens_of
from tests.congruence.drawing import EQUALITY_FILTERS, FILTERS, METADATA, SCALARS

MANY = list(range(MAX_TOKENS - 1))
"""With the token of its key, as many tokens as a chunk may have."""
NUMBERS = st.one_of(st.integers(-(10**30), 10**30), st.floats(-1e300, 1e300), st.decimals(-99, 99, places=2).map(float))
LIKE_NUMBERS = NUMBERS.map(str)


def _holds(narrowed: Narrowing | None, tokens: set[str]) -> bool:
    """What a store makes of it."""
    if narrowed is None:
        return True
    if isinstance(narrowed, HasToken):
        return tokens.isdisjoint(narrowed.tokens) == narrowed.negated
    parts = [_holds(part, tokens) for part in narrowed.parts]
    return all(parts) if narrowed.operator == "and" else any(parts)


def _narrowed_and_meant(given_filter: dict[str, Any], metadata: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the tokens let these metadata through, and whether the filter does."""
    kept = json.loads(check_metadata(metadata))
    parsed = parse(given_filter)
    assert parsed is not None
    return _holds(narrowing(parsed), set(tokens_of(kept))), parsed.matches(kept)


@settings(max_examples=500, deadline=None)
@given(given_filter=FILTERS, metadata=METADATA)
def test_what_matches_is_never_ruled_out(given_filter: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Whatever the filter, ranges and negations included: the tokens let through all that it lets through."""
    narrowed, meant = _narrowed_and_meant(given_filter, metadata)
    assert narrowed or not meant


@settings(max_examples=500, deadline=None)
@given(given_filter=EQUALITY_FILTERS, metadata=METADATA)
def test_without_ranges_tokens_say_all(given_filter: dict[str, Any], metadata: dict[str, Any]) -> None:
    """A filter of equality, existence and what combines them is narrowed to exactly what it means."""
    narrowed, meant = _narrowed_and_meant(given_filter, metadata)
    assert narrowed == meant


@settings(max_examples=100, deadline=None)
@given(given_filter=FILTERS, metadata=METADATA, key=st.sampled_from(["tags", "year", "more"]))
def test_too_many_tokens_rule_nothing_out(given_filter: dict[str, Any], metadata: dict[str, Any], key: str) -> None:
    """A chunk with more tokens than are kept is let through by every filter, whatever it negates."""
    overfull = metadata | {key: [*MANY, "one more"]}
    assert tokens_of(overfull) == [OVERFLOW]
    assert _narrowed_and_meant(given_filter, overfull)[0]


def test_as_many_tokens_as_are_kept() -> None:
    """At the limit each token is there still, and those of a value that comes twice count once."""
    tokens = tokens_of({"tags": [*MANY, *MANY]})
    assert len(set(tokens)) == len(tokens) == MAX_TOKENS
    assert _narrowed_and_meant({"tags": MAX_TOKENS}, {"tags": MANY}) == (False, False)


def test_no_value_has_the_token_of_too_many() -> None:
    """The sign for "too many" is no value's token."""
    assert OVERFLOW not in tokens_of({OVERFLOW: OVERFLOW, "tags": [OVERFLOW, "", "="]})


@settings(max_examples=500, deadline=None)
@given(left=st.one_of(SCALARS, NUMBERS, LIKE_NUMBERS), right=st.one_of(SCALARS, NUMBERS, LIKE_NUMBERS))
@example(left=1, right=1.0)
@example(left=1, right=True)
@example(left=0, right=False)
@example(left=1, right="1")
@example(left=True, right="True")
@example(left=1e23, right=10**23)
@example(left=1e22, right=10**22)
@example(left=10**23, right=99999999999999991611392)  # the same float64
@example(left=-0.0, right=0)
@example(left=0.1, right=0.1 + 2**-56)
@example(left=9007199254740993, right=9007199254740992.0)  # the same float64
@example(left=1e-300, right=0)
def test_tokens_are_equal_where_values_are(left: Any, right: Any) -> None:
    """Two values have one token exactly where `$eq` takes them for equal: numbers by value, never across types."""
    meant = Compare("key", "$eq", left).matches({"key": right})
    assert (tokens_of({"key": left}) == tokens_of({"key": right})) == meant


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"a": "b"}, {"ab": ""}),
        ({"a": "b"}, {"b": "a"}),
        ({"key": "x"}, {"key": None}),
        ({"key": []}, {"key": None}),
        ({"key": {"deep": 1}}, {"key": 1}),
    ],
)
def test_other_metadata_have_other_tokens(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Neither key nor value, nor that there is one, is mistaken for another."""
    assert set(tokens_of(left)) != set(tokens_of(right))


def test_tokens_stay_what_they_are() -> None:
    """Stores are full of them: other tokens would need every index to be built anew."""
    year, tags = ["7i9Av3DSdaaJz_R0", "oOWwvT7nWdw73sIQ"], ["oBGjQpRK-fwRy0yd", "_3bqOj3KcIMlacx6", "sOpAaBePTNBntDLd"]
    assert tokens_of({"year": 2026.0, "tags": ["a", True]}) == year + tags


@pytest.mark.parametrize("name", ["$in", "$nin"])
def test_a_long_list_is_one_condition(name: str) -> None:
    """As many values as a filter may have come to one condition for the store."""
    parsed = parse({"year": {name: list(range(MAX_CONDITIONS))}})
    narrowed = narrowing(parsed)
    assert isinstance(narrowed, HasToken)
    assert len(set(narrowed.tokens) - {OVERFLOW}) == MAX_CONDITIONS
    assert narrowed.negated == (name == "$nin")
