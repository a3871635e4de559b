"""What begins at each character of a text: a section, a paragraph, a sentence, a word, or nothing."""

import re
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from retrieval.chunking.sentences import sentence_ends
from retrieval.embedding.base import TokenSpans

Positions = NDArray[np.int64]
Levels = NDArray[np.uint8]
Words = NDArray[np.int64]
Span = tuple[int, int]


class Level(IntEnum):
    """What begins somewhere, the best place for a cut first."""

    HEADING = 0
    PARAGRAPH = 1
    ITEM = 2
    SENTENCE = 3
    LINE = 4
    WORD = 5
    TOKEN = 6
    NONE = 7


_LINE_END = re.compile("\r\n?|[\n\u2028\u2029]")
_ITEM = re.compile(r"^[ \t]*+(?P<marker>[-*+\u2022]|\d{1,3}[.)])(?=[ \t])", re.MULTILINE)
# Headings are those that are not indented: in reStructuredText and plain text, what is indented is often code.
_BLOCK = re.compile(
    r"^(?:[ \t]*+(?P<fence>`{3,}+(?=[^`\n]*$)|~{3,}+)(?P<rest>[^\n]*)"
    r"|(?P<heading>\#{1,6}(?!\S)[^\r\n]*)"
    r"|(?P<underlined>\S[^\r\n]{0,200}\r?\n(?:={3,}|-{3,}|\*{3,})(?=[ \t]*\r?$)))",
    re.MULTILINE,
)


def find_levels(text: str, words: Words, tokens: TokenSpans) -> Levels:
    """Return the Level of each character: uint8 [characters]. White space has none.

    `words` is int64 [words, 2], where the runs without white space stand, `tokens` the same of the tokens.
    """
    levels = np.full(len(text), Level.NONE, np.uint8)
    levels[_within(words, tokens[:, 0])] = Level.TOKEN
    levels[words[:, 0]] = Level.WORD
    _mark_lines(levels, text, words)
    _raise(levels, _following(words, sentence_ends(text)), Level.SENTENCE)
    _mark_items(levels, text, words)
    _mark_blocks(levels, text, words)
    return levels


def _within(words: Words, positions: Positions) -> Positions:
    """Those of `positions` that are inside a word."""
    word = np.searchsorted(words[:, 0], positions, side="right") - 1
    inside: Positions = positions[(word >= 0) & (positions < words[word, 1])]
    return inside


def _following(words: Words, positions: Positions) -> Positions:
    """The first character at or after each of `positions` that is no white space, if there is one."""
    word = np.searchsorted(words[:, 1], positions, side="right")
    exists = word < len(words)
    following: Positions = np.maximum(positions[exists], words[word[exists], 0])
    return following


def _raise(levels: Levels, positions: Positions, level: Level) -> None:
    levels[positions] = np.minimum(levels[positions], level)


def _lower(levels: Levels, start: int, end: int, level: Level) -> None:
    part = levels[start:end]
    part[part < level] = level


def _mark_lines(levels: Levels, text: str, words: Words) -> None:
    line_ends = np.fromiter((found.start() for found in _LINE_END.finditer(text)), np.int64)
    after = words[1:, 0]
    passed = np.searchsorted(line_ends, after) - np.searchsorted(line_ends, words[:-1, 1])
    levels[after[passed == 1]] = Level.LINE
    levels[after[passed > 1]] = Level.PARAGRAPH


def _mark_items(levels: Levels, text: str, words: Words) -> None:
    markers = np.fromiter((edge for item in _ITEM.finditer(text) for edge in item.span("marker")), np.int64)
    _raise(levels, markers[::2], Level.ITEM)
    contents = _following(words, markers[1::2])
    levels[contents] = np.maximum(levels[contents], Level.WORD)  # an item's text stays with its marker


def _mark_blocks(levels: Levels, text: str, words: Words) -> None:
    headings, code = _blocks(text, levels, first_word=int(words[0, 0]))
    for start, end in code:
        _lower(levels, start + 1, end, Level.LINE)
    nth_words = np.searchsorted(words[:, 0], [end for _, end in headings])
    previous = -1
    for (start, _), following in zip(headings, np.append(words[:, 0], len(text))[nth_words], strict=True):
        if start != previous:  # of headings in a row, the first: they stay with the text that follows
            levels[start] = Level.HEADING
        _lower(levels, start + 1, following + 1, Level.WORD)
        previous = following


def _blocks(text: str, levels: Levels, first_word: int) -> tuple[list[Span], list[Span]]:
    """The spans of headings, and of fenced code from its first fence to its last or to the text's end."""
    headings: list[Span] = []
    code: list[Span] = []
    fence, opened = "", 0
    for block in _BLOCK.finditer(text):
        if fence:
            if _closes(block, fence):
                code.append((opened, block.end()))
                fence = ""
        elif block["fence"]:
            fence, opened = block["fence"], block.start()
        elif block["heading"] or block.start() == first_word or levels[block.start()] == Level.PARAGRAPH:
            headings.append(block.span())
    return headings, [*code, (opened, len(text))] if fence else code


def _closes(block: re.Match[str], fence: str) -> bool:
    return block["fence"] is not None and block["fence"].startswith(fence) and not block["rest"].strip()
