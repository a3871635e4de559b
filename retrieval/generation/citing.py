"""Citations: what the `[n]` in an answer point at, and which of its statements they stand behind."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from retrieval.documents import AnswerSpan, Citation
from retrieval.generation.base import Passage
from retrieval.generation.sentences import split_sentences

PARAGRAPH = "\n\n"

_MARKER = re.compile(r"\[\s*([0-9]{1,9}(?:\s*[,;\u2013-]\s*[0-9]{1,9})*)\s*\]")
_RANGE = re.compile(r"([0-9]+)(?:\s*[\u2013-]\s*([0-9]+))?")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_QUOTE = re.compile(r"(?P<quote>.+) \[(?P<number>[0-9]{1,9})\]", re.DOTALL)
_WORD = re.compile(r"\w")
_JOINS = re.compile(r"[^\w\n]*(?:\n[^\S\n]*)?")
_CLOSERS = re.compile(r"[)\]*_.,;:!?]*")


def cite(answer: str, passages: Sequence[Passage], *, quotes: bool = False) -> list[Citation]:
    """Resolve the markers of an answer: `[1]`, `[2, 3]`, `[1][2]`, `[1-3]`; only numbers that were given.

    A passage is cited once, in the order of first mentions, with its whole chunk as the source and all statements that
    it stands behind as `answer_spans`. With `quotes`, where every paragraph of the answer is a quotation and its
    `[n]`, each is cited with the quotation's own span. Numbers in code are none: `values[1]` between backticks cites
    nothing.
    """
    given = {passage.number: passage for passage in passages}
    if quotes:
        return list(_quotations(answer, given))
    cited: dict[int, list[AnswerSpan]] = {}
    for statement in _statements(answer, given):
        for number in statement.numbers:
            cited.setdefault(number, []).append(AnswerSpan(start=statement.start, end=statement.end))
    return [_whole_chunk(given[number], spans) for number, spans in cited.items()]


def without_markers(answer: str) -> str:
    """Return an answer without its markers and the space before them."""
    *before, rest = _between(answer, list(_markers(answer)))
    return "".join([*(text.rstrip(" ") for text in before), rest])


@dataclass(slots=True)
class _Statement:
    """Characters `start` to `end` of an answer, with the numbers that stand behind them in the order of mention."""

    start: int
    end: int
    numbers: list[int] = field(default_factory=list)


def _statements(answer: str, given: dict[int, Passage]) -> list[_Statement]:
    """Return the statements that cite something, in order, without overlap; their markers are part of them."""
    markers = list(_markers(answer))
    bare = _BareAnswer.of(answer, markers)
    found: dict[int, _Statement] = {}
    for marker in markers:
        piece, span = bare.piece_of(marker)
        statement = found.setdefault(piece, _Statement(*span))
        statement.end = max(statement.end, span[1])
        statement.numbers += [number for number in _numbers(marker[1], given) if number not in statement.numbers]
    return [statement for statement in found.values() if statement.numbers]


@dataclass(frozen=True, slots=True)
class _BareAnswer:
    """An answer with blanks for its markers, and where its pieces that say something begin and end.

    Between two pieces, the space up to `joined[n]` belongs to piece n, and that from `leads[n]` to the piece before it.
    """

    text: str
    starts: list[int]
    ends: list[int]
    joined: list[int]
    leads: list[int]

    @classmethod
    def of(cls, answer: str, markers: Sequence[re.Match[str]]) -> "_BareAnswer":
        blanks = [*map(_blank, markers), ""]
        text = "".join(map(str.__add__, _between(answer, markers), blanks))
        pieces = [piece for piece in split_sentences(text) if _WORD.search(text, piece.start, piece.end)]
        starts, ends = [piece.start for piece in pieces], [piece.end for piece in pieces]
        # Once for each gap, and not for each marker: there may be thousands in one.
        joined = [_joined(text, end, limit) for end, limit in zip(ends, [*starts[1:], len(text)], strict=False)]
        leads = [_led_from(text, limit, start) for limit, start in zip([0, *ends], starts, strict=False)]
        return cls(text, starts, ends, joined, leads)

    def piece_of(self, marker: re.Match[str]) -> tuple[int, tuple[int, int]]:
        """Return which piece a marker stands behind, and from where to where the two reach.

        It is the one around it, else the one just before it, else the one that follows in its line. A marker with none
        of these stands for itself, as a piece of its own.
        """
        start, end = marker.span()
        before = bisect_right(self.starts, start) - 1
        after = before + 1
        if before >= 0 and start <= self.joined[before]:
            return before, (self.starts[before], max(self.ends[before], self._closed(end, after)))
        if after < len(self.starts) and self.leads[after] <= end <= self.starts[after]:
            return after, (start, self.ends[after])
        return -1 - start, (start, end)

    def _closed(self, end: int, after: int) -> int:
        """Return where the brackets and full stops end that follow a marker, before the next piece."""
        limit = self.starts[after] if after < len(self.starts) else len(self.text)
        closed = _CLOSERS.match(self.text, end, max(end, limit))
        return closed.end() if closed else end


def _joined(text: str, end: int, limit: int) -> int:
    """Return how far the piece that ends at `end` reaches on: to a word, or over one line end and the space after."""
    joined = _JOINS.match(text, end, limit)
    return joined.end() if joined else end


def _led_from(text: str, limit: int, start: int) -> int:
    """Return where the space in its line begins that stands before the piece at `start`."""
    line = text[limit:start].rpartition("\n")[2]
    return start - len(line) + len(line.rstrip())


def _markers(answer: str) -> Iterator[re.Match[str]]:
    """Find the markers outside of code."""
    return _MARKER.finditer(_CODE.sub(_blank, answer))


def _between(answer: str, markers: Sequence[re.Match[str]]) -> list[str]:
    """Return what stands before, between and after the markers."""
    starts = [0, *(marker.end() for marker in markers)]
    ends = [*(marker.start() for marker in markers), len(answer)]
    return [answer[start:end] for start, end in zip(starts, ends, strict=True)]


def _blank(found: re.Match[str]) -> str:
    return " " * len(found.group())


def _numbers(marker: str, given: dict[int, Passage]) -> Iterator[int]:
    for first, last in _RANGE.findall(marker):
        low, high = int(first), int(last or first)
        yield from (number for number in given if low <= number <= high)


def _whole_chunk(passage: Passage, spans: list[AnswerSpan]) -> Citation:
    hit = passage.hit
    return _citation(passage, hit.start, hit.end, hit.text, spans)


def _quotations(answer: str, given: dict[int, Passage]) -> Iterator[Citation]:
    at = 0
    for paragraph in answer.split(PARAGRAPH):
        span = AnswerSpan(start=at, end=at + len(paragraph))
        at = span.end + len(PARAGRAPH)
        found = _QUOTE.fullmatch(paragraph)
        passage = given.get(int(found["number"])) if found else None
        if found is None or passage is None:
            continue
        offset = passage.text.find(found["quote"])
        if offset >= 0:
            start = passage.start + offset
            yield _citation(passage, start, start + len(found["quote"]), found["quote"], [span])


def _citation(passage: Passage, start: int, end: int, text: str, spans: list[AnswerSpan]) -> Citation:
    hit = passage.hit
    return Citation(
        number=passage.number,
        chunk_id=hit.id,
        document_id=hit.document_id,
        title=hit.title,
        start=start,
        end=end,
        text=text,
        answer_spans=spans,
    )
