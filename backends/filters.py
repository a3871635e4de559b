"""The filter language: its checks, its one meaning (`Filter.matches`), and that meaning as a PostgreSQL jsonpath.

A filter is JSON in MongoDB's style, over the top-level keys of the metadata:

    {"year": {"$gte": 2020}, "lang": "en"}                     several keys: all must hold
    {"$or": [{"tag": {"$in": ["a", "b"]}}, {"$not": {"draft": true}}]}

A bare value means `$eq`. A list in the metadata satisfies a comparison when one of its elements does. Values
compare within their type alone: numbers as numbers, strings by code point, and 1 is neither "1" nor true. `$ne`,
`$nin` and `$not` are the exact opposites of `$eq`, `$in` and what they negate, so they hold where the key is
missing. A null in the metadata is the same as a missing key. An empty filter matches everything.

The jsonpath reaches PostgreSQL as one parameter; no part of a filter is ever SQL.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from backends.errors import InvalidDocument, InvalidFilter, InvalidInput

Scalar = str | int | float | bool
Comparison = Literal["$eq", "$gt", "$gte", "$lt", "$lte"]

OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$and", "$or", "$not")
MAX_DEPTH = 16
MAX_CONDITIONS = 1_000
MAX_KEY_CHARACTERS = 200
MAX_METADATA_BYTES = 40_960

_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_KEY = re.compile(r"[\w .:/@+()\[\]-]+")
_JSONPATH_SIGN = {"$eq": "==", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda found, wanted: bool(found == wanted),
    "$gt": lambda found, wanted: bool(found > wanted),
    "$gte": lambda found, wanted: bool(found >= wanted),
    "$lt": lambda found, wanted: bool(found < wanted),
    "$lte": lambda found, wanted: bool(found <= wanted),
}


@dataclass(frozen=True, slots=True)
class Compare:
    """`key` has a value of the type of `value`, or a list with such an element, and the comparison holds."""

    key: str
    operator: Comparison
    value: Scalar

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        found = metadata.get(self.key)
        wanted = comparable(self.value)
        return any(
            kind == wanted[0] and _HOLDS[self.operator](value, wanted[1])
            for kind, value in map(comparable, found if isinstance(found, list) else [found])
        )

    def jsonpath(self, negated: bool = False) -> str:
        test = f"(${_step(self.key)} {_JSONPATH_SIGN[self.operator]} {_literal(self.value)})"
        # A comparison of two types is unknown in jsonpath, and so would be its opposite.
        return f"(!{test} || ({test} is unknown))" if negated else test


@dataclass(frozen=True, slots=True)
class Exists:
    """`key` is there and is not null."""

    key: str

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return metadata.get(self.key) is not None

    def jsonpath(self, negated: bool = False) -> str:
        test = f'(${_step(self.key)}.type() != "null")'
        return f"(!{test})" if negated else test


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds; with no parts, always."""

    parts: tuple["Filter", ...]

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return all(part.matches(metadata) for part in self.parts)

    def jsonpath(self, negated: bool = False) -> str:
        if negated:
            return _joined(" || ", (part.jsonpath(negated=True) for part in self.parts), empty="(1 == 0)")
        return _joined(" && ", (part.jsonpath() for part in self.parts), empty="(1 == 1)")


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One part holds, at least."""

    parts: tuple["Filter", ...]

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return any(part.matches(metadata) for part in self.parts)

    def jsonpath(self, negated: bool = False) -> str:
        if negated:
            return _joined(" && ", (part.jsonpath(negated=True) for part in self.parts), empty="(1 == 1)")
        return _joined(" || ", (part.jsonpath() for part in self.parts), empty="(1 == 0)")


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Filter"

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return not self.part.matches(metadata)

    def jsonpath(self, negated: bool = False) -> str:
        return self.part.jsonpath(negated=not negated)


Filter = Compare | Exists | All | AnyOf | Not


def parse(given: object, field: str = "filter") -> Filter | None:
    """Check a filter as users write it. None and {} come back as None: everything matches.

    Raises InvalidFilter, whose `field` is the path to the wrong part, for example `filter.year.$gte`.
    """
    if given is None or given == {}:
        return None
    parsed = _parse_object(given, field, depth=0)
    if (count := sum(1 for _ in _leaves(parsed))) > MAX_CONDITIONS:
        raise InvalidFilter(field, f"found {count} conditions; needed at most {MAX_CONDITIONS}")
    return parsed


def check_metadata(metadata: object, field: str = "metadata") -> str:
    """Return metadata as the JSON text that the corpus keeps.

    Any JSON value may stand under a key; filters see strings, numbers, booleans and lists of these. Raises
    InvalidDocument for what JSON or PostgreSQL cannot keep, and for a key that no filter could name.
    """
    if not isinstance(metadata, dict):
        raise InvalidDocument(field, f"found {type(metadata).__name__}; needed an object")
    for key, value in metadata.items():
        _check_key(key, field, InvalidDocument)
        _check_json(value, f"{field}.{key}", depth=0)
    if not metadata:
        return "{}"
    text = _ENCODE(metadata)
    if len(text) * 4 > MAX_METADATA_BYTES and (size := len(text.encode())) > MAX_METADATA_BYTES:
        raise InvalidDocument(field, f"found {size} bytes of JSON; needed at most {MAX_METADATA_BYTES}")
    return text


def _check_json(value: object, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidDocument(where, f"nested deeper than {MAX_DEPTH}; needed flatter metadata")
    if isinstance(value, list):
        for element in value:
            _check_json(element, where, depth + 1)
    elif isinstance(value, dict):
        for key, element in value.items():
            _check_scalar(key, where, InvalidDocument)
            _check_json(element, f"{where}.{key}", depth + 1)
    elif value is not None:
        _check_scalar(value, where, InvalidDocument)


def _parse_object(given: object, field: str, depth: int) -> Filter:
    if not isinstance(given, dict) or not given:
        raise InvalidFilter(field, f"found {_shown(given)}; needed an object such as {{'year': {{'$gte': 2020}}}}")
    if depth >= MAX_DEPTH:
        raise InvalidFilter(field, f"nested deeper than {MAX_DEPTH}; needed a flatter filter")
    parts = [_parse_entry(key, value, f"{field}.{key}", field, depth) for key, value in given.items()]
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _parse_entry(key: object, value: object, where: str, field: str, depth: int) -> Filter:
    if key in ("$and", "$or"):
        if not isinstance(value, list) or not value:
            raise InvalidFilter(where, f"found {_shown(value)}; needed a list of filters that is not empty")
        parts = tuple(_parse_object(part, f"{where}[{i}]", depth + 1) for i, part in enumerate(value))
        return All(parts) if key == "$and" else AnyOf(parts)
    if key == "$not":
        return Not(_parse_object(value, where, depth + 1))
    if isinstance(key, str) and key.startswith("$"):
        raise InvalidFilter(where, _unknown(key))
    _check_key(key, field, InvalidFilter)
    assert isinstance(key, str)
    return _parse_condition(key, value, where, depth)


def _parse_condition(key: str, value: object, where: str, depth: int) -> Filter:
    if not isinstance(value, dict):
        return Compare(key, "$eq", _check_scalar(value, where, InvalidFilter))
    if not value:
        raise InvalidFilter(where, "found {}; needed an operator such as {'$eq': 1}")
    parts = [_parse_operator(key, name, operand, f"{where}.{name}", depth) for name, operand in value.items()]
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _parse_operator(key: str, operator: object, operand: object, where: str, depth: int) -> Filter:
    match operator:
        case "$eq":
            return Compare(key, "$eq", _check_scalar(operand, where, InvalidFilter))
        case "$ne":
            return Not(Compare(key, "$eq", _check_scalar(operand, where, InvalidFilter)))
        case "$gt" | "$gte" | "$lt" | "$lte":
            return _parse_range(key, operator, operand, where)
        case "$in" | "$nin":
            found = AnyOf(tuple(Compare(key, "$eq", value) for value in _check_list(operand, where)))
            return found if operator == "$in" else Not(found)
        case "$exists":
            if not isinstance(operand, bool):
                raise InvalidFilter(where, f"found {_shown(operand)}; needed true or false")
            return Exists(key) if operand else Not(Exists(key))
        case "$not":
            if not isinstance(operand, dict) or depth >= MAX_DEPTH:
                raise InvalidFilter(where, f"found {_shown(operand)}; needed an operator such as {{'$gt': 1}}")
            return Not(_parse_condition(key, operand, where, depth + 1))
        case _:
            raise InvalidFilter(where, _unknown(operator))


def _parse_range(key: str, operator: Comparison, operand: object, where: str) -> Filter:
    value = _check_scalar(operand, where, InvalidFilter)
    if isinstance(value, bool):
        raise InvalidFilter(where, f"found {value}; needed a number or a string, since true and false have no order")
    return Compare(key, operator, value)


def _check_list(operand: object, where: str) -> Sequence[Scalar]:
    if not isinstance(operand, list) or not operand:
        raise InvalidFilter(where, f"found {_shown(operand)}; needed a list of values that is not empty")
    return [_check_scalar(value, f"{where}[{i}]", InvalidFilter) for i, value in enumerate(operand)]


def _check_scalar(value: object, where: str, error: type[InvalidInput]) -> Scalar:
    if isinstance(value, str):
        check_text(value, where, error)
        return value
    if isinstance(value, bool | int):
        if abs(value) >= 10**308:
            raise error(where, "found a number beyond 1e308; needed a smaller one")
        return value
    if isinstance(value, float) and value - value == 0:
        return value
    raise error(where, f"found {_shown(value)}; needed a string, a finite number, true or false")


def check_text(text: str, where: str, error: type[InvalidInput]) -> None:
    """Refuse what PostgreSQL cannot keep as text: NUL and lone surrogates."""
    if (at := text.find("\x00")) >= 0:
        raise error(where, f"found a NUL character at {at}; needed text without NUL")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as fault:
            raise error(where, f"found a lone surrogate at {fault.start}; needed valid Unicode") from fault


def _check_key(key: object, field: str, error: type[InvalidInput]) -> None:
    if not isinstance(key, str) or not key or len(key) > MAX_KEY_CHARACTERS:
        raise error(field, f"found the key {_shown(key)}; needed 1 to {MAX_KEY_CHARACTERS} characters")
    if not _KEY.fullmatch(key) or "\x00" in key:
        raise error(
            field,
            f"found the key {_shown(key)}; needed letters, digits, spaces and any of _ . : / @ + ( ) [ ] - alone",
        )


def _unknown(operator: object) -> str:
    return f"unknown operator {_shown(operator)}; needed one of {' '.join(OPERATORS)}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def comparable(value: object) -> tuple[str, Any]:
    """Return a value's kind and what equality and order compare within that kind."""
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, int | float):
        # The shortest decimal form is what JSON carries, and so what PostgreSQL compares.
        return "number", Decimal(repr(value))
    return ("string" if isinstance(value, str) else "other"), value


def _step(key: str) -> str:
    return f".{json.dumps(key)}"


def _literal(value: Scalar) -> str:
    return json.dumps(value)


def _joined(sign: str, parts: Iterable[str], empty: str) -> str:
    joined = sign.join(parts)
    return f"({joined})" if joined else empty


def _leaves(tree: Filter) -> Iterable[Filter]:
    match tree:
        case All(parts) | AnyOf(parts):
            for part in parts:
                yield from _leaves(part)
        case Not(part):
            yield from _leaves(part)
        case _:
            yield tree
