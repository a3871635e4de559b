"""What hypothesis draws: metadata, filters, embeddings with many ties, and what happens to a collection."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DIMENSION = 8
IDS = ["d0", "d1", "d10", "d2", "D0", "é", "z#1", "a b", "~"]
DIFFERENT_EMBEDDINGS = 4
"""Fewer than there are ids, so that many are equally near; queries may be one more."""
DIFFERENT_FILTERS = 2

KEYS = ["year", "lang", "tags", "größe", "a.b c", "x:y"]
SCALARS = st.one_of(
    st.sampled_from(["en", "de", "", "1", "true", "É", "'; DROP", '"', "\\", "\u2028", "😀"]),
    st.integers(-3, 3),
    st.sampled_from([0.5, -0.5, 1.0, 0.1, 1e22, 1e23, 10**23, 2**63, 9007199254740993, 9007199254740992.0, -0.0]),
    st.booleans(),
)
ORDERED = SCALARS.filter(lambda value: not isinstance(value, bool))
METADATA = st.dictionaries(
    st.sampled_from(KEYS),
    st.one_of(SCALARS, st.none(), st.lists(st.one_of(SCALARS, st.none()), max_size=3), st.just({"deep": 1})),
    max_size=4,
)

_EQUALITIES = st.one_of(
    SCALARS,
    st.builds(lambda value: {"$eq": value}, SCALARS),
    st.builds(lambda value: {"$ne": value}, SCALARS),
    st.builds(lambda name, values: {name: values}, st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, min_size=1)),
    st.builds(lambda value: {"$exists": value}, st.booleans()),
    st.builds(lambda value: {"$not": {"$eq": value}}, SCALARS),
)
_RANGES = st.one_of(
    st.builds(lambda name, value: {name: value}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ORDERED),
    st.builds(lambda value: {"$not": {"$gte": value}}, ORDERED),
)


def _filters(operators: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.recursive(
        st.dictionaries(st.sampled_from([*KEYS, "missing"]), operators, min_size=1, max_size=2),
        lambda inner: st.one_of(
            st.builds(lambda parts: {"$and": parts}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda parts: {"$or": parts}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda part: {"$not": part}, inner),
        ),
        max_leaves=6,
    )


EQUALITY_FILTERS = _filters(_EQUALITIES)
"""Filters without ranges."""
FILTERS = _filters(st.one_of(_EQUALITIES, _RANGES))


@dataclass(frozen=True, slots=True)
class Upsert:
    """Documents written, new or in place of those that are there: metadata by id, and which embedding each has."""

    metadata: dict[str, dict[str, Any]]
    embeddings: dict[str, int]


@dataclass(frozen=True, slots=True)
class NewMetadata:
    """The documents of these that are there get other metadata."""

    metadata: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Delete:
    """Documents deleted by id."""

    ids: list[str]


@dataclass(frozen=True, slots=True)
class DeleteMatching:
    """Documents deleted by filter."""

    filter: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Follow:
    """The index applies what it lacks; until the next time it is behind whatever is written."""


@dataclass(frozen=True, slots=True)
class Rebuild:
    """The index is built anew from what is there."""


Step = Upsert | NewMetadata | Delete | DeleteMatching | Follow | Rebuild


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One search. It names its query and its filter; None is for no filter."""

    query: int
    top_k: int
    filter: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happens to an empty collection, and what is asked of it after each step.

    There are few filters, so that what is remembered of one is soon out of date.
    """

    embeddings: np.ndarray
    filters: list[dict[str, Any]]
    steps: list[tuple[Step, list[Question]]]


_UPSERTS = st.dictionaries(
    st.sampled_from(IDS), st.tuples(METADATA, st.integers(0, DIFFERENT_EMBEDDINGS - 1)), min_size=1, max_size=len(IDS)
).map(
    lambda rows: Upsert(
        {id_: metadata for id_, (metadata, _) in rows.items()}, {id_: row for id_, (_, row) in rows.items()}
    )
)
_SOME_IDS = st.lists(st.sampled_from(IDS), unique=True, min_size=1, max_size=3)
_STEPS = st.one_of(
    _UPSERTS,
    st.builds(NewMetadata, st.dictionaries(st.sampled_from(IDS), METADATA, min_size=1, max_size=3)),
    st.builds(Delete, _SOME_IDS),
    st.builds(DeleteMatching, FILTERS),
    st.just(Follow()),
    st.just(Rebuild()),
)
_QUESTIONS = st.lists(
    st.builds(
        Question,
        query=st.integers(0, DIFFERENT_EMBEDDINGS),
        top_k=st.integers(1, len(IDS) + 1),
        filter=st.one_of(st.none(), st.integers(0, DIFFERENT_FILTERS - 1)),
    ),
    min_size=1,
    max_size=2,
)
STORIES = st.builds(
    Story,
    embeddings=hnp.arrays(np.float32, (DIFFERENT_EMBEDDINGS + 1, DIMENSION), elements=st.floats(-10, 10, width=16)),
    filters=st.lists(FILTERS, min_size=DIFFERENT_FILTERS, max_size=DIFFERENT_FILTERS),
    steps=st.builds(
        lambda first, later: [first, *later],
        st.tuples(_UPSERTS, _QUESTIONS),
        st.lists(st.tuples(_STEPS, _QUESTIONS), min_size=1, max_size=6),
    ),
)
