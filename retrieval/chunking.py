"""Documents into chunks that fit the model, cut where the text itself has its joints.

Cuts are looked for in this order: before a heading, a paragraph, a sentence, a line, a word, a token. Whatever is left
is divided into as many chunks as it needs, of about equal size, so that no small rest stands alone.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.documents import Chunk, Document
from retrieval.embedding.base import TokenSpans

NAME = "structure-1"
SPECIAL_TOKENS = 2
TITLE_SHARE = 4
"""A title takes a quarter of the tokens at most; the rest of a longer one is not embedded."""
OVERLAP_SHARE = 4
"""Chunks share a quarter of their tokens at most."""
LONGEST_TOKEN_CHARACTERS = 16
"""A token may stand for a word of any length; a longer one counts once for each of so many characters."""
SMALLEST_SHARE = 0.6
"""A joint is taken when the chunk before it has at least this share of the ideal size."""

Positions = NDArray[np.int64]

_FENCE = re.compile(r"^ {0,3}(```+|~~~+)", re.MULTILINE)
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*(?=\S)")
_SENTENCE = re.compile(r"""[.!?…]+["'”’)\]»]*\s+(?=[^\s\W_]|[^\w\s])|[。！？]+[”’」』）]*\s*(?=\S)""")
_LINE = re.compile(r"\n\s*(?=\S)")
_WORD = re.compile(r"\s+(?=\S)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[^\W\d_]|e\.g|i\.e|etc|vs|cf|al|approx|ca|Fig|Figs|Eq|Ref|No|Nos|Dr|Mr|Mrs|Ms|Prof|St|Vol|pp|z\.B|d\.h)$"
)
_LOOK_BACK = 10


@dataclass(frozen=True, slots=True)
class _Joints:
    """Where a text can be cut, best kind first; each position is the start of what comes after the cut."""

    headings: Positions
    kinds: tuple[Positions, ...]
    sentences: Positions
    """Where an overlap may begin: paragraphs and sentences."""


class Chunker:
    """Cuts documents for one model. `token_spans` gives int64 [tokens, 2], start and end in characters.

    What is embedded of a chunk is `passage(title, text)`: it has at most `max_tokens`, special tokens included,
    unless a single character takes more. Neighbours share up to `overlap_tokens`, whole sentences, never across a
    heading. The same text and settings give the same chunks.
    """

    def __init__(self, token_spans: Callable[[str], TokenSpans], max_tokens: int, overlap_tokens: int) -> None:
        self._token_spans = token_spans
        self._max_tokens = max_tokens
        self._overlap_tokens = overlap_tokens

    @property
    def stamp(self) -> dict[str, Any]:
        """What must be the same for the same document to give the same chunks."""
        return {"name": NAME, "max_tokens": self._max_tokens, "overlap_tokens": self._overlap_tokens}

    def chunk(self, document: Document) -> list[Chunk]:
        """Cut a document; an empty list where it has nothing but white space.

        Chunks come in order and leave no gap: the first starts at 0, the last ends with the text, and each begins
        where the one before it ends, or earlier.
        """
        text = document.text
        if not text.strip():
            return []
        starts = _token_starts(self._token_spans(text))
        budget = max(1, self._max_tokens - SPECIAL_TOKENS - self._title_tokens(document.title))
        if len(starts) <= budget:
            return [Chunk(text=text, start=0, end=len(text))]
        overlap = min(self._overlap_tokens, budget // OVERLAP_SHARE)
        spans = _spans(len(text), starts, _joints(text), budget, overlap)
        return [Chunk(text=text[start:end], start=start, end=end) for start, end in spans]

    def passage(self, title: str, text: str) -> str:
        """Return what is embedded of a chunk: the document's title, as far as it fits, and the chunk's text."""
        if not title.strip():
            return text.strip()
        spans = self._token_spans(title)
        limit = self._max_tokens // TITLE_SHARE
        kept = title if len(spans) <= limit else title[: int(spans[limit - 1][1])]
        return f"{kept.strip()} {text.strip()}"

    def _title_tokens(self, title: str) -> int:
        return min(len(self._token_spans(title)), self._max_tokens // TITLE_SHARE) if title.strip() else 0


def _spans(length: int, starts: Positions, joints: _Joints, budget: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield the chunks of a text with these token starts, from left to right."""
    start, after = 0, 0
    while True:
        first = int(np.searchsorted(starts, start))
        left = len(starts) - first
        if left <= budget:
            yield start, length
            return
        shared = int(np.searchsorted(starts, after)) - first
        end = _cut(starts, joints, first, shared, left, budget)
        yield start, end
        start, after = _overlapping(starts, joints, start, end, overlap), end


def _cut(starts: Positions, joints: _Joints, first: int, shared: int, left: int, budget: int) -> int:
    """Return where the chunk that begins with token `first` ends; `shared` of its tokens are in the one before."""
    ideal = -(-left // -(-left // budget))
    smallest = max(shared + 1, int(ideal * SMALLEST_SHARE))
    low, middle, high = (int(starts[first + count]) for count in (smallest, ideal, budget))
    for kind in joints.kinds:
        begin, end = np.searchsorted(kind, low), np.searchsorted(kind, high, side="right")
        if begin < end:
            inside = kind[begin:end]
            return int(inside[np.abs(inside - middle).argmin()])
    return middle


def _overlapping(starts: Positions, joints: _Joints, start: int, end: int, overlap: int) -> int:
    """Return where the next chunk begins: the earliest sentence before `end` within `overlap` tokens."""
    at = int(np.searchsorted(joints.headings, end))
    if overlap == 0 or (at < len(joints.headings) and joints.headings[at] == end):
        return end
    reach = int(starts[max(0, int(np.searchsorted(starts, end)) - overlap)])
    behind = joints.headings[at - 1] if at else 0
    earliest = max(reach, start + 1, int(behind))
    position = int(np.searchsorted(joints.sentences, earliest))
    return min(end, int(joints.sentences[position])) if position < len(joints.sentences) else end


def _token_starts(spans: TokenSpans) -> Positions:
    """Return where tokens start, a very long one counted several times."""
    lengths = spans[:, 1] - spans[:, 0]
    long = np.flatnonzero(lengths > LONGEST_TOKEN_CHARACTERS)
    extra = [np.arange(a, b, LONGEST_TOKEN_CHARACTERS)[1:] for a, b in spans[long].tolist()]
    # Some tokenizers give a character that takes several tokens the same span for each.
    return np.sort(np.concatenate([spans[:, 0], *extra])).astype(np.int64)


def _joints(text: str) -> _Joints:
    fences = [match.start() for match in _FENCE.finditer(text)]
    headings = [match.start() for match in _HEADING.finditer(text) if bisect_left(fences, match.start()) % 2 == 0]
    paragraphs = _positions(match.end() for match in _PARAGRAPH.finditer(text))
    sentences = _positions(match.end() for match in _SENTENCE.finditer(text) if _ends_sentence(text, match))
    lines = _positions(match.end() for match in _LINE.finditer(text))
    words = _positions(match.end() for match in _WORD.finditer(text))
    starts = _positions(headings)
    return _Joints(
        headings=starts,
        kinds=(starts, paragraphs, sentences, lines, words),
        sentences=np.union1d(paragraphs, sentences),
    )


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    if not match.group().startswith("."):
        return True
    return not _ABBREVIATION.search(text, max(0, match.start() - _LOOK_BACK), match.start()) and not (
        text[match.end()].islower()
    )


def _positions(found: Iterable[int]) -> Positions:
    return np.fromiter(found, np.int64)
