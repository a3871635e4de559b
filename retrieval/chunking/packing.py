"""Which of a text's boundaries become cuts: full chunks, of like size, cut at the best places."""

from dataclasses import dataclass

import numpy as np

from retrieval.chunking.boundaries import Boundaries
from retrieval.chunking.levels import Level, Positions

# By Level: what a cut costs, where leaving half of a chunk empty costs 0.5. A word is never cut where it fits.
_COSTS = np.array([0.0, 0.5, 0.6, 0.7, 0.8, 1.2, 10.0, 10.0])


def pack(boundaries: Boundaries, budget: int, overlap_tokens: int) -> list[tuple[int, int]]:
    """Return the character spans of chunks of at most `budget` tokens that share up to `overlap_tokens`.

    Only what no boundary divides is longer. `overlap_tokens` is less than `budget`.
    """
    wanted = (Level.HEADING, Level.SENTENCE, Level.WORD)
    indexes = {level: np.flatnonzero(boundaries.levels <= level) for level in wanted}
    packing = _Packing(boundaries, budget, overlap_tokens, indexes)
    return [(int(boundaries.positions[a]), int(boundaries.positions[b])) for a, b in packing.chunks()]


@dataclass(frozen=True, slots=True)
class _Packing:
    """Chunks as pairs of indexes into the boundaries; `indexes` has those of boundaries of a level or a better."""

    boundaries: Boundaries
    budget: int
    overlap_tokens: int
    indexes: dict[Level, Positions]

    def chunks(self) -> list[tuple[int, int]]:
        last = len(self.boundaries.positions) - 1
        chunks: list[tuple[int, int]] = []
        start = end = 0
        while end < last:
            end = self._cut(start, end)
            chunks.append((start, end))
            start = self._next_start(start, end)
        return chunks

    def _tokens(self, start: int, end: int) -> int:
        return int(self.boundaries.tokens_until[end] - self.boundaries.tokens_before[start])

    def _cut(self, start: int, previous_end: int) -> int:
        """The best end after `previous_end` for a chunk that begins at `start`."""
        until = self.boundaries.tokens_until
        tokens_before = self.boundaries.tokens_before[start]
        fitting = int(np.searchsorted(until, tokens_before + self.budget, side="right")) - 1
        farthest = max(fitting, previous_end + 1)
        if farthest == len(until) - 1:
            return farthest
        candidates = slice(previous_end + 1, farthest + 1)
        fill = (until[candidates] - tokens_before) / self._wanted_tokens(start, farthest)
        costs = _COSTS[self.boundaries.levels[candidates]] + np.abs(1 - fill)
        return previous_end + 1 + int(np.argmin(costs))

    def _wanted_tokens(self, start: int, farthest: int) -> float:
        """The tokens of each chunk if those up to the next section, or to the end, were all of one size."""
        rest = self._tokens(start, self._first(Level.HEADING, farthest + 1)) - self.overlap_tokens
        count = -(-rest // (self.budget - self.overlap_tokens))
        return rest / count + self.overlap_tokens

    def _next_start(self, start: int, end: int) -> int:
        """Where the chunk after (start, end) begins: with whole sentences of the same section, as overlap."""
        boundaries = self.boundaries
        if boundaries.levels[end] == Level.HEADING or not self.overlap_tokens:
            return end
        overlap_begins = boundaries.tokens_until[end] - self.overlap_tokens
        earliest = int(np.searchsorted(boundaries.tokens_before, overlap_begins))
        sentence = self._first(Level.SENTENCE, max(start + 1, earliest, self._section_start(end)))
        leaves_room = self._tokens(sentence, self._first(Level.WORD, end + 1)) <= self.budget
        return sentence if sentence < end and leaves_room else end

    def _first(self, level: Level, least: int) -> int:
        """The first boundary of that level or a better one whose index is at least `least`."""
        indexes = self.indexes[level]
        return int(indexes[np.searchsorted(indexes, least)])

    def _section_start(self, end: int) -> int:
        headings = self.indexes[Level.HEADING]
        return int(headings[np.searchsorted(headings, end) - 1])
