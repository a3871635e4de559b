"""Which passages say what others have said."""

import re
from dataclasses import dataclass, field, replace

from retrieval.documents import Hit
from retrieval.generation.base import Passage
from retrieval.generation.sentences import split_sentences

SHINGLE_WORDS = 5
SAID_SHARE = 0.8

_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]|[^\s\u2e80-\u9fff\uac00-\ud7af]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

_Shingle = tuple[str, ...]


@dataclass(slots=True)
class Shown:
    """The passages that a prompt shows so far, and what they say."""

    passages: list[Passage] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list)
    _shingles: set[_Shingle] = field(default_factory=set)
    _numbers: set[str] = field(default_factory=set)

    def add(self, passage: Passage) -> bool:
        """Show a passage under its number, unless it is a repeat; return whether it is shown.

        A repeat is one whose words stand in another in this order, or nearly: of its shingles (each five words that
        follow one another) 80 % are those of others. That is the containment |S(A) & S(B)| / |S(A)| of A. Broder, "On
        the resemblance and containment of documents" (1997). A passage with a number that is new is never a repeat: of
        two editions, that may be all that differs.
        """
        words = _words(passage.text)
        line = f" {' '.join(words)} "
        numbers, shingles = set(_NUMBER.findall(passage.text)), _shingles(words)
        nearly_said = len(shingles & self._shingles) >= SAID_SHARE * len(shingles) and numbers <= self._numbers
        if not words or any(line in shown for shown in self._lines) or (shingles and nearly_said):
            return False
        self.passages.append(passage)
        self._lines.append(line)
        self._numbers |= numbers
        self._shingles |= shingles
        return True

    def unseen(self, hit: Hit) -> Passage | None:
        """Return the hit from its first to its last sentence that no neighbour shows; None where all are shown.

        It has the number that it would be shown under.
        """
        spans = [(other.start, other.end) for other in self.passages if other.hit.document_id == hit.document_id]
        whole = Passage(number=len(self.passages) + 1, hit=hit, text=hit.text, start=hit.start, end=hit.end)
        if not any(start < hit.end and hit.start < end for start, end in spans):
            return whole
        fresh = [
            (sentence.start, sentence.end)
            for sentence in split_sentences(hit.text)
            if not any(start <= hit.start + sentence.start and hit.start + sentence.end <= end for start, end in spans)
        ]
        if not fresh:
            return None
        first, last = fresh[0][0], fresh[-1][1]
        return replace(whole, text=hit.text[first:last], start=hit.start + first, end=hit.start + last)


def _words(text: str) -> list[str]:
    """Words with their punctuation; where none are set apart by spaces, characters."""
    return _WORD.findall(text.casefold())


def _shingles(words: list[str]) -> set[_Shingle]:
    return set(zip(*(words[first:] for first in range(SHINGLE_WORDS)), strict=False))
