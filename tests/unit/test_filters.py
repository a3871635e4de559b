"""The filter language: what it means, what it refuses."""

from typing import Any

import pytest

from backends.errors import InvalidDocument, InvalidFilter
from backends.filters import check_metadata, parse

METADATA = {"year": 2024, "lang": "en", "tags": ["a", "b"], "draft": False, "gone": None, "score": 0.1, "empty": []}


@pytest.mark.parametrize(
    "given",
    [
        {"year": 2024},
        {"year": 2024.0},
        {"year": {"$eq": 2024}},
        {"year": {"$gte": 2024, "$lt": 2025}},
        {"lang": {"$in": ["de", "en"]}},
        {"lang": {"$gt": "e"}},
        {"tags": "b"},
        {"tags": {"$gte": "b"}},
        {"score": {"$lte": 0.1}},
        {"draft": False},
        {"lang": {"$ne": "de"}},
        {"missing": {"$ne": 1}},
        {"missing": {"$nin": [1, 2]}},
        {"missing": {"$exists": False}},
        {"gone": {"$exists": False}},
        {"empty": {"$exists": True}},
        {"empty": {"$ne": 1}},
        {"year": {"$ne": "2024"}},
        {"$or": [{"year": 1}, {"lang": "en"}]},
        {"$and": [{"year": 2024}, {"$not": {"lang": "de"}}]},
        {"year": {"$not": {"$lt": 2024}}},
    ],
)
def test_a_filter_matches(given: dict[str, Any]) -> None:
    """Each of these holds for the sample metadata."""
    parsed = parse(given)
    assert parsed is not None
    assert parsed.matches(METADATA)


@pytest.mark.parametrize(
    "given",
    [
        {"year": "2024"},
        {"year": True},
        {"draft": 0},
        {"year": {"$gt": 2024}},
        {"lang": {"$gt": 1}},
        {"tags": "c"},
        {"tags": {"$ne": "a"}},
        {"missing": 1},
        {"missing": {"$gt": 0}},
        {"gone": {"$exists": True}},
        {"empty": {"$gt": 0}},
        {"lang": "en", "year": 1},
        {"$or": [{"year": 1}, {"lang": "de"}]},
        {"$not": {"lang": "en"}},
        {"lang": {"$nin": ["en", "de"]}},
    ],
)
def test_a_filter_does_not_match(given: dict[str, Any]) -> None:
    """None of these holds for the sample metadata."""
    parsed = parse(given)
    assert parsed is not None
    assert not parsed.matches(METADATA)


@pytest.mark.parametrize("given", [None, {}])
def test_an_empty_filter_is_no_filter(given: object) -> None:
    """Nothing asked for means that everything matches."""
    assert parse(given) is None


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"year": {"$regex": "x"}}, "filter.year.$regex", "unknown operator '$regex'"),
        ({"$nor": []}, "filter.$nor", "unknown operator"),
        ({"a' OR 1=1 --": 1}, "filter", "letters, digits"),
        ({"": 1}, "filter", "1 to 200 characters"),
        ({"k" * 201: 1}, "filter", "1 to 200 characters"),
        ({"year": None}, "filter.year", "needed a string"),
        ({"year": [1]}, "filter.year", "needed a string"),
        ({"year": {}}, "filter.year", "needed an operator"),
        ({"year": {"$in": []}}, "filter.year.$in", "not empty"),
        ({"year": {"$in": 3}}, "filter.year.$in", "needed a list"),
        ({"year": {"$gt": True}}, "filter.year.$gt", "no order"),
        ({"year": {"$gt": float("nan")}}, "filter.year.$gt", "finite"),
        ({"year": {"$exists": 1}}, "filter.year.$exists", "true or false"),
        ({"$and": []}, "filter.$and", "not empty"),
        ({"$or": [1]}, "filter.$or[0]", "needed an object"),
        ({"$not": {}}, "filter.$not", "needed an object"),
        ({"name": "a\x00b"}, "filter.name", "NUL"),
        ({"name": "\ud800"}, "filter.name", "surrogate"),
        ([1], "filter", "needed an object"),
        ("year = 1", "filter", "needed an object"),
    ],
)
def test_a_wrong_filter_is_refused_by_its_path(given: object, field: str, words: str) -> None:
    """The error names the part that is wrong and what is needed there."""
    with pytest.raises(InvalidFilter) as caught:
        parse(given)
    assert caught.value.field == field
    assert words in caught.value.problem


def test_a_filter_that_is_too_deep_or_too_wide_is_refused() -> None:
    """Neither nesting nor width can exhaust the server."""
    deep: dict[str, Any] = {"a": 1}
    for _ in range(100):
        deep = {"$not": deep}
    with pytest.raises(InvalidFilter, match="deeper"):
        parse(deep)
    with pytest.raises(InvalidFilter, match="conditions"):
        parse({"a": {"$in": list(range(2_000))}})


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"a'b": 1}, "letters, digits"),
        ({"$and": 1}, "letters, digits"),
        ({1: 1}, "1 to 200 characters"),
        ({"a": float("inf")}, "finite"),
        ({"a": {1, 2}}, "needed a string"),
        ({"a": "x\x00"}, "NUL"),
        ({"a": {"b": "\ud800"}}, "surrogate"),
        ({"a": "x" * 50_000}, "bytes of JSON"),
        ([], "needed an object"),
    ],
)
def test_metadata_that_cannot_be_kept_or_reached_is_refused(metadata: object, words: str) -> None:
    """Keys and values are checked before anything is written."""
    with pytest.raises(InvalidDocument, match=words):
        check_metadata(metadata)


def test_metadata_may_nest() -> None:
    """Objects and nulls are kept, though filters see the top level alone."""
    assert check_metadata({"a": {"b": [1, None]}, "ü": "é"}) == '{"a": {"b": [1, null]}, "ü": "é"}'
