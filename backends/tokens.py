"""Metadata as tokens, for stores whose own filters mean something else than ours.

Each value under a key becomes one short token, equal exactly where our `$eq` says so, and each key that is there
another. A store that can say "has one of these tokens" and "has none of these" can then narrow a search with our
meaning. What tokens cannot say (ranges) narrows nothing; so a narrowed search proposes a superset of what matches,
and the corpus decides.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from backends.filters import All, AnyOf, Compare, Exists, Filter, Not, comparable

TOKEN_BYTES = 12
"""96 bits: two of a billion values share a token with a probability of 1e-11."""
MAX_TOKENS = 1_000
OVERFLOW = "*"
"""The token of a chunk that has more than MAX_TOKENS: it may match anything."""


@dataclass(frozen=True, slots=True)
class HasToken:
    """The chunk has one of these tokens, or with `negated` none of them."""

    tokens: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Combined:
    """`and`: every part narrows; `or`: one part has to hold."""

    operator: Literal["and", "or"]
    parts: tuple["Narrowing", ...]


Narrowing = HasToken | Combined


def tokens_of(metadata: Mapping[str, Any]) -> list[str]:
    """Return the tokens of one chunk's metadata, distinct, in a stable order."""
    found: dict[str, None] = {}
    for key, value in metadata.items():
        if value is None:
            continue
        found[_exists(key)] = None
        for element in value if isinstance(value, list) else [value]:
            if comparable(element)[0] != "other":
                found[_equals(key, element)] = None
    return list(found) if len(found) <= MAX_TOKENS else [OVERFLOW]


def narrowing(filter: Filter | None, negated: bool = False) -> Narrowing | None:
    """Return what tokens can say of a filter, as a superset of what matches; None where that is everything."""
    match filter:
        case Compare(key, "$eq", value):
            return _has(_equals(key, value), negated)
        case Exists(key):
            return _has(_exists(key), negated)
        case Not(part):
            return narrowing(part, not negated)
        case All(parts):
            return _combined("or" if negated else "and", parts, negated)
        case AnyOf(parts):
            return _combined("and" if negated else "or", parts, negated)
        case _:
            return None


def _has(token: str, negated: bool) -> HasToken:
    # A chunk with too many tokens has none of its own: it is never ruled out.
    return HasToken((token,), negated=True) if negated else HasToken((token, OVERFLOW))


def _combined(operator: Literal["and", "or"], parts: tuple[Filter, ...], negated: bool) -> Narrowing | None:
    narrowed = [narrowing(part, negated) for part in parts]
    known = tuple(part for part in narrowed if part is not None)
    if not known or (operator == "or" and len(known) < len(narrowed)):
        return None
    return known[0] if len(known) == 1 else _merged(operator, known)


def _merged(operator: Literal["and", "or"], parts: tuple[Narrowing, ...]) -> Narrowing:
    """`$in` of a hundred values is one list of tokens, not a hundred conditions."""
    negated = operator == "and"
    simple = [part for part in parts if isinstance(part, HasToken) and part.negated == negated]
    if len(simple) < 2:
        return Combined(operator, parts)
    rest = tuple(part for part in parts if part not in simple)
    tokens = dict.fromkeys(token for part in simple for token in part.tokens)
    merged = HasToken(tuple(tokens), negated)
    return Combined(operator, (merged, *rest)) if rest else merged


def _equals(key: str, value: object) -> str:
    kind, canonical = comparable(value)
    text = _digits(canonical) if isinstance(canonical, Decimal) else str(canonical)
    return _token("=", key, kind, text)


def _digits(number: Decimal) -> str:
    """Write a number in one way, every digit of it: 1, 1.0 and 1e0 are "1"."""
    if not number:
        return "0"
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _exists(key: str) -> str:
    return _token("?", key)


def _token(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=TOKEN_BYTES)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(4, "big") + data)
    return base64.urlsafe_b64encode(digest.digest()).decode()
