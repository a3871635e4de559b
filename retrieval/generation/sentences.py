"""Where the sentences of prose, Markdown and reStructuredText stand: for trimming and for quoting."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

LONGEST_SENTENCE = 600
_FEWEST_WORDS = 4
_CODE_SHARE = 0.04

_Kind = Literal["text", "item", "blank", "underline", "other"]

_FENCE = re.compile(r"(?:```|~~~)[`~]*\s*(?P<language>\S*)")
_UNDERLINE = re.compile(r"([^\w\s])\1{2,}$")
_NOT_PROSE = re.compile(r"#{1,6}\s|>>>|\.\.\. |[|<]|\{\{|!\[|\[[^\]]+\]:|.*::=|[^\w\s]+$")
_ITEM = re.compile(r"(?:[*+•-]|\d{1,3}[.)])\s+(?=\S)")
_QUOTE_MARK = re.compile(r"(?:>[ \t]?)+")
_LEAD = re.compile(r"[>\s]*(?:\[\d+\]\s*)*")
# Quotation marks, brackets and Markdown's emphasis; then the full stops of Chinese and Japanese.
_CLOSERS = r"[\"'\u2019\u201d\u00bb\u300d\u300f\uff09)\]*_`]*"
_WIDE_STOP = r"[\u3002\uff01\uff1f]"
_BOUNDARY = re.compile(rf"[.!?\u2026]+{_CLOSERS}(?=\s)|{_WIDE_STOP}+{_CLOSERS}")
_ENDED = re.compile(rf"(?:[.!?\u2026]|{_WIDE_STOP}){_CLOSERS}$")
_ABBREVIATED = re.compile(r"(?:^|[\s(\[])(?:e\.g|i\.e|cf|vs|resp|approx|ca|al|Dr|Mrs?|Ms|Prof|St|Fig|Sec|Eq|[A-Z])\.$")
_LONGEST_ABBREVIATION = 12
"""Characters that `_ABBREVIATED` looks at, at most: searching all of a paragraph for each of its stops takes long."""
_BETWEEN = re.compile(r"[ \t\r\n>]*")
_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]")
_CODE_SIGN = re.compile(r"[{}=<>|\\;]")


@dataclass(frozen=True, slots=True)
class Sentence:
    """Characters `start` to `end` of a text; `prose` is false for headings, code, tables and fragments."""

    start: int
    end: int
    prose: bool


def split_sentences(text: str) -> list[Sentence]:
    """Return the sentences of `text` in order, without overlap.

    What is no sentence (a heading, a line of code, a row of a table) is a piece with `prose` false.
    Space, list bullets, quote marks and the numbers of footnotes before a sentence belong to none.
    """
    return [sentence for start, end, prose in _blocks(text) for sentence in _sentences_of(text, start, end, prose)]


@dataclass(frozen=True, slots=True)
class _Line:
    """A line without its bullet, its quote marks and the space around it."""

    start: int
    end: int
    text: str


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, prose) of paragraphs, list items, headings and lines of code."""
    paragraph: list[_Line] = []
    for line, kind in _kinds(list(_lines(text))):
        if paragraph and kind != "text":
            is_heading = kind == "underline" and len(paragraph) == 1
            yield paragraph[0].start, paragraph[-1].end, not is_heading
            paragraph = []
        if kind in ("text", "item"):
            paragraph.append(line)
        elif kind == "other":
            yield line.start, line.end, False
    if paragraph:
        yield paragraph[0].start, paragraph[-1].end, True


def _lines(text: str) -> Iterator[_Line]:
    offset = 0
    for whole in text.splitlines(keepends=True):
        skip = len(whole) - len(whole.lstrip())
        if quoted := _QUOTE_MARK.match(whole, skip):
            skip = quoted.end()
        content = whole[skip:].strip()
        start = offset + whole.find(content, skip)
        yield _Line(start, start + len(content), content)
        offset += len(whole)


def _kinds(lines: list[_Line]) -> Iterator[tuple[_Line, _Kind]]:
    fenced = _begins_fenced(lines)
    for line in lines:
        if fence := _FENCE.match(line.text):
            fenced = bool(fence["language"]) or not fenced
            yield line, "blank"
        elif not line.text:
            yield line, "blank"
        elif _UNDERLINE.match(line.text):
            yield line, "underline"
        elif fenced or _NOT_PROSE.match(line.text):
            yield line, "other"
        elif item := _ITEM.match(line.text):
            yield _Line(line.start + item.end(), line.end, line.text[item.end() :]), "item"
        else:
            yield line, "text"


def _begins_fenced(lines: list[_Line]) -> bool:
    """Whether the text was cut out of a document inside a fenced block: its first fence then closes one."""
    fences = [fence for line in lines if (fence := _FENCE.match(line.text))]
    return len(fences) % 2 == 1 and not fences[0]["language"]


def _sentences_of(text: str, start: int, end: int, prose: bool) -> Iterator[Sentence]:
    if not prose:
        yield Sentence(start, end, False)
        return
    for stop in [*_stops(text, start, end), end]:
        lead = _LEAD.match(text, start, stop)
        first = lead.end() if lead else start
        if first < stop:
            yield Sentence(first, stop, _reads_as_sentence(text[first:stop]))
        start = stop


def _stops(text: str, start: int, end: int) -> Iterator[int]:
    """Yield where a sentence ends between `start` and `end`."""
    for boundary in _BOUNDARY.finditer(text, start, end):
        after = _BETWEEN.match(text, boundary.end(), end)
        following = text[after.end() : min(after.end() + 1, end)] if after else ""
        nearest = max(start, boundary.end() - _LONGEST_ABBREVIATION)
        if following and not following.islower() and not _ABBREVIATED.search(text, nearest, boundary.end()):
            yield boundary.end()


def _reads_as_sentence(sentence: str) -> bool:
    """Whether a reader would take this for a whole sentence rather than a fragment or code."""
    spaced = len(_WORD.findall(sentence)) >= _FEWEST_WORDS
    code_signs = len(_CODE_SIGN.findall(sentence))
    return (
        (spaced or len(_UNSPACED.findall(sentence)) >= 2 * _FEWEST_WORDS)
        and len(sentence) <= LONGEST_SENTENCE
        and not sentence[0].islower()
        and _ENDED.search(sentence) is not None
        and code_signs <= _CODE_SHARE * len(sentence)
    )
