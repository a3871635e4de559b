"""Where sentences end, in any language that has a mark for it."""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_CLOSERS = "[\"'\u2019\u201d\u00bb\u300d\u300f\uff09)\\]*_]{0,4}"
_SPACED = ".!?\u2026\u061f\u06d4\u0964\u0965\u0589"  # Latin, Arabic, Urdu, Hindi, Armenian
_UNSPACED = "\u3002\uff01\uff1f\uff61"  # Chinese, Japanese
_STOP = re.compile(rf"[{_SPACED}]{_CLOSERS}(?=\s)|[{_UNSPACED}]{_CLOSERS}(?![{_UNSPACED}])")
_NEXT = re.compile(r"\S")
_LONGEST_ABBREVIATION = 12
_DOTTED = re.compile(r"(?:[^\W\d_]{1,3}\.)+[^\W\d_]{1,2}")
_ABBREVIATIONS = frozenset({"al", "approx", "ca", "cf", "dr", "eq", "eqs", "etc", "fig", "figs", "mr", "mrs", "ms"})
_ABBREVIATIONS |= {"nos", "pp", "prof", "ref", "refs", "resp", "sec", "st", "vol", "vs", "bzw", "evtl", "ggf", "nr"}


def sentence_ends(text: str) -> NDArray[np.int64]:
    """Return the positions after the last character of each sentence, int64 [sentences], ascending.

    A full stop after an abbreviation or an initial ends none, and no mark does before a small letter. What
    the text ends with is not counted.
    """
    return np.fromiter(_ends(text), np.int64)


def _ends(text: str) -> Iterator[int]:
    for stop in _STOP.finditer(text):
        following = _NEXT.search(text, stop.end())
        if following and not following[0].islower() and not _abbreviates(text, stop.start()):
            yield stop.end()


def _abbreviates(text: str, stop: int) -> bool:
    """Whether the mark at `stop` is the full stop of `Fig.`, `e.g.`, `U.S.` or `J.`."""
    before = text[max(0, stop - _LONGEST_ABBREVIATION) : stop]
    if text[stop] != "." or not before[-1:].isalpha():
        return False
    word = before.split()[-1].lstrip("(\"'\u2018\u201c[")
    return len(word) == 1 or word.lower() in _ABBREVIATIONS or _DOTTED.fullmatch(word) is not None
