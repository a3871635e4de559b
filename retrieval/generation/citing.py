"""Citations: what the `[n]` in an answer point at."""

import re
from collections.abc import Iterator, Sequence

from retrieval.documents import Citation
from retrieval.generation.base import Passage

PARAGRAPH = "\n\n"

_MARKER = re.compile(r"\[\s*([0-9]{1,9}(?:\s*[,;\u2013-]\s*[0-9]{1,9})*)\s*\]")
_RANGE = re.compile(r"([0-9]+)(?:\s*[\u2013-]\s*([0-9]+))?")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_QUOTE = re.compile(r"(?P<quote>.+) \[(?P<number>[0-9]{1,9})\]", re.DOTALL)


def cite(answer: str, passages: Sequence[Passage], *, quotes: bool = False) -> list[Citation]:
    """Resolve the markers of an answer: `[1]`, `[2, 3]`, `[1][2]`, `[1-3]`; only numbers that were given.

    A passage is cited once, at its first mention, with its whole chunk as the span. With `quotes`, where every
    paragraph of the answer is a quotation and its `[n]`, each is cited with the quotation's own span.
    Numbers in code are none: `values[1]` between backticks cites nothing.
    """
    given = {passage.number: passage for passage in passages}
    if quotes:
        return list(_quotations(answer, given))
    text = _CODE.sub(" ", answer)
    mentioned = dict.fromkeys(number for marker in _MARKER.finditer(text) for number in _numbers(marker[1], given))
    return [_whole_chunk(given[number]) for number in mentioned]


def _numbers(marker: str, given: dict[int, Passage]) -> Iterator[int]:
    for first, last in _RANGE.findall(marker):
        low, high = int(first), int(last or first)
        yield from (number for number in given if low <= number <= high)


def _whole_chunk(passage: Passage) -> Citation:
    hit = passage.hit
    return _citation(passage, hit.start, hit.end, hit.text)


def _quotations(answer: str, given: dict[int, Passage]) -> Iterator[Citation]:
    for paragraph in answer.split(PARAGRAPH):
        found = _QUOTE.fullmatch(paragraph)
        passage = given.get(int(found["number"])) if found else None
        if found is None or passage is None:
            continue
        offset = passage.text.find(found["quote"])
        if offset >= 0:
            start = passage.start + offset
            yield _citation(passage, start, start + len(found["quote"]), found["quote"])


def _citation(passage: Passage, start: int, end: int, text: str) -> Citation:
    hit = passage.hit
    return Citation(
        number=passage.number,
        chunk_id=hit.id,
        document_id=hit.document_id,
        title=hit.title,
        start=start,
        end=end,
        text=text,
    )
