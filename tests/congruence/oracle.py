"""What a search is to answer, worked out from what was written, in NumPy and Python alone."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest

from backends.filters import Filter, parse
from backends.hits import Hit
from backends.types import IndexSpec
from backends.vectors import exact_scores
from tests.congruence.drawing import Delete, DeleteMatching, NewMetadata, Step, Upsert

TOLERANCE = 1e-5
"""Of a score, relative above 1."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document that matches: its true score, and the embedding, by which those equally near are known."""

    id: str
    score: float
    embedding: bytes


class Oracle:
    """The documents that are there. Embeddings are prepared ones, float32 [n, d]; documents name their rows."""

    def __init__(self, embeddings: np.ndarray, spec: IndexSpec) -> None:
        self.embeddings = embeddings
        self._spec = spec
        self._rows: dict[str, int] = {}
        self._metadata: dict[str, dict[str, object]] = {}

    def __contains__(self, id_: str) -> bool:
        return id_ in self._rows

    def take(self, step: Step) -> None:
        """Do what the step does."""
        match step:
            case Upsert(metadata, embeddings):
                self._rows |= embeddings
                self._metadata |= metadata
            case NewMetadata(metadata):
                self._metadata |= {id_: given for id_, given in metadata.items() if id_ in self}
            case Delete(ids):
                self._forget(ids)
            case DeleteMatching(filter):
                self._forget(self._matching(parse(filter)))

    def ranked(self, query: np.ndarray, filter: Filter | None) -> list[Ranked]:
        """Return all that matches, nearest first, equally near ones by id, bytewise."""
        scores = exact_scores(query, self.embeddings, self._spec)
        found = [
            Ranked(id_, float(scores[self._rows[id_]]), self.embeddings[self._rows[id_]].tobytes())
            for id_ in self._matching(filter)
        ]
        return sorted(found, key=lambda one: (-one.score, one.id.encode()))

    def _matching(self, filter: Filter | None) -> list[str]:
        return [id_ for id_ in self._rows if filter is None or filter.matches(self._metadata[id_])]

    def _forget(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._rows.pop(id_, None)
            self._metadata.pop(id_, None)


def agree(found: list[Hit], ranked: list[Ranked], top_k: int) -> None:
    """The same hits, scores and order, but for what scores within TOLERANCE of each other.

    Equally near ones come by id, bytewise, and so does the choice among them where the last hits are such.
    """
    be_sound(found, ranked, top_k)
    for chunk, expected in zip(found, ranked, strict=False):
        assert chunk.score == pytest.approx(expected.score, abs=2 * _tolerance(expected))
    for embedding in {one.embedding for one in ranked}:
        equals = [one.id for one in ranked if one.embedding == embedding]
        chosen = [chunk.id for chunk in found if chunk.id in equals]
        assert chosen == equals[: len(chosen)]


def be_sound(found: list[Hit], ranked: list[Ranked], top_k: int) -> None:
    """As many hits as there are to find, each once, each one that matches, with its true score, in order.

    Nearer ones may have been missed.
    """
    true = {one.id: one for one in ranked}
    ids = [chunk.id for chunk in found]
    assert len(set(ids)) == len(ids) == min(top_k, len(ranked))
    assert set(ids) <= true.keys()
    for chunk in found:
        assert chunk.score == pytest.approx(true[chunk.id].score, abs=_tolerance(true[chunk.id]))
    assert found == sorted(found, key=lambda chunk: (-chunk.score, chunk.id.encode()))


def _tolerance(one: Ranked) -> float:
    return TOLERANCE * max(1.0, abs(one.score))
