"""What an adapter proposes by itself, before the corpus decides: never less than what matches."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.corpus.following import snapshot
from backends.filters import parse
from backends.tokens import MAX_TOKENS
from backends.types import Ids
from backends.vectors import prepare
from tests.congruence.conftest import Subject
from tests.congruence.drawing import DIMENSION, FILTERS, IDS, METADATA, Delete, Follow, Rebuild, Upsert
from tests.corpora import random_embeddings
from tests.stores import BACKENDS

OVERFULL: dict[str, Any] = {"year": list(range(MAX_TOKENS + 1)), "lang": "en"}
"""Metadata of more values than stores are given."""


@pytest.mark.parametrize("way", BACKENDS, indirect=True)  # a graph as HNSW's may lose sight of a chunk
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.lists(METADATA, min_size=len(IDS) - 1, max_size=len(IDS) - 1),
    filters=st.lists(FILTERS, min_size=5, max_size=5),
    data=st.data(),
)
def test_no_matching_chunk_is_left_out(
    subject: Subject, metadata: list[dict[str, Any]], filters: list[dict[str, Any]], data: st.DataObject
) -> None:
    """With a filter, all that matches is proposed where as many candidates are asked for; `allowed` is obeyed."""
    held = _held_after_writing(subject, [*metadata, OVERFULL])
    query = prepare(random_embeddings(1, DIMENSION, seed=3), subject.spec)
    for given_filter in filters:
        parsed = parse(given_filter)
        assert parsed is not None
        proposed = _proposed(subject, query, len(held), parsed, None)
        assert {id_ for id_, attributes in held.items() if parsed.matches(attributes)} <= proposed <= held.keys()
    if subject.index.capabilities.selects_ids:
        foreign = [1, 2**50]
        allowed = data.draw(st.lists(st.sampled_from([*held, *foreign]), unique=True))
        found = _proposed(subject, query, len(held), None, np.array(sorted(allowed), dtype=np.int64))
        assert found == held.keys() & set(allowed)


def _held_after_writing(subject: Subject, metadata: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Write documents with these metadata, some after the index was built, and return what it holds by chunk id."""
    embeddings = random_embeddings(len(IDS), DIMENSION)
    every = dict(zip(IDS, metadata, strict=True))
    later = IDS[::2]
    for step in (
        Upsert(every, {id_: row for row, id_ in enumerate(IDS)}),
        Rebuild(),
        Delete(later[:1]),
        Upsert({id_: every[id_] for id_ in later}, {id_: IDS.index(id_) for id_ in later}),
        Follow(),
    ):
        subject.take(step, embeddings)
    with snapshot(subject.database, subject.collection) as view:
        return {
            id_: attributes
            for batch in view.batches
            for id_, attributes in zip(batch.ids.tolist(), batch.attributes, strict=True)
        }


def _proposed(subject: Subject, query: np.ndarray, candidates: int, filter: Any, allowed: Ids | None) -> set[int]:
    found = subject.index.search(query, candidates, filter, None, allowed).ids[0].tolist()
    assert len(set(found)) == len(found)
    return set(found)
