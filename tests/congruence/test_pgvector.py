"""pgvector against the exact oracle, on drawn data, filters, deletes and queries."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.corpus.search import FoundChunk
from backends.corpus.writing import write
from backends.filters import Filter, check_metadata, parse
from backends.memory import MemoryIndex
from backends.pgvector import PgvectorIndex
from backends.types import IndexSpec
from backends.vectors import exact_scores, prepare
from retrieval.config import load
from retrieval.placement import open_index
from tests.corpora import TAIL_LIMIT, made_collection, put, random_embeddings, searcher

KEYS = ["year", "lang", "tags", "größe", "a.b c", "x:y"]
SCALARS = st.one_of(
    st.sampled_from(["en", "de", "", "É", "'; DROP", '"', "\\", "\u2028", "😀"]),
    st.integers(-3, 3),
    st.sampled_from([0.5, -0.5, 1.0, 0.1, 1e22, 1e23, 10**23, 2**63, 9007199254740993, 9007199254740992.0, -0.0]),
    st.booleans(),
)
METADATA = st.dictionaries(
    st.sampled_from(KEYS),
    st.one_of(SCALARS, st.none(), st.lists(st.one_of(SCALARS, st.none()), max_size=3), st.just({"deep": 1})),
    max_size=4,
)


def _conditions() -> st.SearchStrategy[dict[str, Any]]:
    ordered = SCALARS.filter(lambda value: not isinstance(value, bool))
    operators = st.one_of(
        SCALARS,
        st.builds(lambda value: {"$eq": value}, SCALARS),
        st.builds(lambda value: {"$ne": value}, SCALARS),
        st.builds(lambda name, value: {name: value}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ordered),
        st.builds(lambda name, values: {name: values}, st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, min_size=1)),
        st.builds(lambda value: {"$exists": value}, st.booleans()),
        st.builds(lambda value: {"$not": {"$gte": value}}, ordered),
    )
    return st.dictionaries(st.sampled_from([*KEYS, "missing"]), operators, min_size=1, max_size=2)


FILTERS = st.recursive(
    _conditions(),
    lambda inner: st.one_of(
        st.builds(lambda parts: {"$and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"$or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"$not": part}, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_filter=FILTERS, metadata=st.lists(METADATA, min_size=1, max_size=6))
def test_a_filter_means_the_same_in_postgresql(
    database: Database, given_filter: dict[str, Any], metadata: list[dict[str, Any]]
) -> None:
    """`matches` in Python and the jsonpath in PostgreSQL agree on every metadata."""
    parsed = parse(given_filter)
    assert parsed is not None
    kept = [json.loads(check_metadata(one)) for one in metadata]
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT coalesce(m::jsonb @@ %s::jsonpath, false) "
            "FROM unnest(%s::text[]) WITH ORDINALITY AS t (m, n) ORDER BY n",
            (parsed.jsonpath(), [check_metadata(one) for one in metadata]),
        ).fetchall()
    assert [row[0] for row in rows] == [parsed.matches(one) for one in kept]


@pytest.fixture(
    params=[("cosine", "half"), ("inner_product", "half"), ("l2", "half"), ("cosine", "single"), ("l2", "single")]
)
def collection(request: pytest.FixtureRequest, database: Database, name: str) -> Iterator[CollectionState]:
    spec = IndexSpec(dimension=16, metric=request.param[0], precision=request.param[1])
    with made_collection(database, name, spec) as made:
        yield made


def _oracle(database: Database, collection: CollectionState) -> MemoryIndex:
    index = open_index(database, replace(collection, backend="memory"), load())
    assert isinstance(index, MemoryIndex)
    return index


def _expected(
    embeddings: dict[str, np.ndarray], metadata: dict[str, dict[str, Any]], query: np.ndarray, spec: IndexSpec,
    top_k: int, filter: Filter | None,
) -> list[tuple[str, float]]:  # fmt: skip
    """The answer from NumPy alone, ordered by score and then by id, bytewise."""
    ids = [id_ for id_ in embeddings if filter is None or filter.matches(metadata[id_])]
    if not ids:
        return []
    scores = exact_scores(query, np.stack([embeddings[id_] for id_ in ids]), spec)
    ranked = sorted(zip(ids, scores.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0].encode()))
    return ranked[:top_k]


def _agree(found: list[FoundChunk], expected: list[tuple[str, float]]) -> None:
    """Scores agree within 1e-5 (relative above 1), and order agrees outside that."""
    assert len(found) == len(expected)
    for chunk, (id_, score) in zip(found, expected, strict=True):
        tolerance = 1e-5 * max(1.0, abs(score))
        assert chunk.score == pytest.approx(score, abs=tolerance)
        if chunk.id != id_:
            other = dict(expected).get(chunk.id)
            assert other is None or other == pytest.approx(score, abs=tolerance)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    embeddings=hnp.arrays(np.float32, (12, 16), elements=st.floats(-10, 10, width=16)),
    metadata=st.lists(METADATA, min_size=12, max_size=12),
    given_filter=st.one_of(st.none(), FILTERS),
    top_k=st.integers(1, 14),
)
def test_exact_search_gives_the_oracles_hits(
    database: Database,
    collection: CollectionState,
    data: st.DataObject,
    embeddings: np.ndarray,
    metadata: list[dict[str, Any]],
    given_filter: dict[str, Any] | None,
    top_k: int,
) -> None:
    """In exact mode: the same hits, scores and order as NumPy, filters, deletes and ties included."""
    spec = collection.spec
    usable = embeddings.any(axis=1)
    ids = [f"d{position}" for position in np.flatnonzero(usable)]
    if not ids:
        return
    write(database, collection, lambda change: change.delete_documents([f"d{n}" for n in range(12)]), TAIL_LIMIT)
    put(database, collection, ids, embeddings[usable], [metadata[n] for n in np.flatnonzero(usable)])
    gone = data.draw(st.lists(st.sampled_from(ids), unique=True, max_size=4))
    write(database, collection, lambda change: change.delete_documents(gone), TAIL_LIMIT)
    kept = {
        id_: (prepare(embeddings[int(id_[1:])][None], spec)[0], metadata[int(id_[1:])])
        for id_ in ids
        if id_ not in gone
    }
    query = prepare(random_embeddings(1, 16, seed=3), spec)[0]
    parsed = parse(given_filter)
    index = open_index(database, collection, load())
    found = searcher(database, collection, index).search(query, top_k, parsed, exact=True)
    expected = _expected(
        {id_: pair[0] for id_, pair in kept.items()},
        {id_: pair[1] for id_, pair in kept.items()},
        query,
        spec,
        top_k,
        parsed,
    )
    assert found.exact
    _agree(found.chunks, expected)


def test_hnsw_finds_what_the_oracle_finds(database: Database, collection: CollectionState) -> None:
    """Through HNSW, filters of several widths included: recall@10 of at least 0.95, ten hits whenever ten match."""
    embeddings = random_embeddings(3_000, 16)
    metadata = [{"half": n % 2, "tenth": n % 10, "hundredth": n % 100} for n in range(3_000)]
    put(database, collection, [f"d{n:04d}" for n in range(3_000)], embeddings, metadata)
    index = open_index(database, collection, load())
    assert isinstance(index, PgvectorIndex)
    index.build()
    oracle = searcher(database, collection, _oracle(database, collection))
    queries = prepare(random_embeddings(3_040, 16)[-40:], collection.spec)
    for given_filter in (None, {"half": 0}, {"tenth": 3}, {"hundredth": {"$in": [1, 2]}}):
        parsed = parse(given_filter)
        shared = 0
        for query in queries:
            found = index.nearest(query, 10, parsed)
            true = oracle.search(query, 10, parsed).chunks
            assert len(found) == len(true) == 10
            shared += len({chunk.id for chunk in found} & {chunk.id for chunk in true})
        assert shared / (10 * len(queries)) >= 0.95, given_filter
