"""Where a text may be cut, how good each place is, and how many tokens stand before it."""

import re
from dataclasses import dataclass

import numpy as np

from retrieval.chunking.levels import Level, Levels, Positions, Words, find_levels
from retrieval.embedding.base import TokenSpans

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Boundaries:
    """The n places where a text may be cut, its beginning and its end included: arrays [n], ascending.

    No stretch between two boundaries is white space alone: space belongs to what stands before it. The level of
    the beginning and of the end is that of a heading.
    `tokens_until` counts the tokens that begin before a boundary and before the space in front of it,
    `tokens_before` those that end by then: from boundary i to j there are
    `tokens_until[j] - tokens_before[i]`, where a token that a cut goes through counts on both sides.
    """

    positions: Positions
    levels: Levels
    tokens_before: Positions
    tokens_until: Positions


def find_boundaries(text: str, tokens: TokenSpans) -> Boundaries:
    """Find the boundaries of a text that is not blank; `tokens` is int64 [tokens, 2], where they stand in it."""
    words = _words(text)
    levels = find_levels(text, words, tokens)
    first_word = words[0, 0]
    inside = np.flatnonzero(levels < Level.NONE)
    positions = np.concatenate([[0], inside[inside > first_word], [len(text)]])
    boundary_levels = np.concatenate([[Level.HEADING], levels[positions[1:-1]], [Level.HEADING]]).astype(np.uint8)
    words_before = np.searchsorted(words[:, 0], positions)
    ends = np.minimum(positions, words[np.maximum(words_before - 1, 0), 1])
    return Boundaries(
        positions=positions,
        levels=boundary_levels,
        tokens_before=np.searchsorted(np.sort(tokens[:, 1]), np.maximum(positions, first_word), side="right"),
        tokens_until=np.searchsorted(np.sort(tokens[:, 0]), ends, side="left"),
    )


def _words(text: str) -> Words:
    """Where the runs without white space stand: int64 [words, 2]."""
    edges = (edge for word in _WORD.finditer(text) for edge in word.span())
    return np.fromiter(edges, np.int64).reshape(-1, 2)
