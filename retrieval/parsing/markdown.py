"""The title of a Markdown text. The text itself stays as it is, so that citations point into the source."""

import re
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

_TITLE_WITHIN = 65_536  # characters; a heading further down is no title, and long texts need not be parsed
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r"^title:[ \t]+(?:\"([^\"\\\r\n]+)\"|'([^'\r\n]+)'|(\w[^:#\r\n]*))[ \t]*\r?$", re.MULTILINE)
_BLOCKS = MarkdownIt("commonmark").disable("inline")
_INLINE = MarkdownIt("commonmark")


def markdown_title(text: str) -> str:
    """The `title` of the front matter where it is plain, else the first heading's text, else nothing."""
    head = text[:_TITLE_WITHIN]
    front_matter = _FRONT_MATTER.match(head)
    if front_matter is None:
        return _first_heading(head)
    given = _TITLE.search(front_matter[1])
    return next(filter(None, given.groups())).strip() if given else _first_heading(head[front_matter.end() :])


def _first_heading(text: str) -> str:
    tokens = _BLOCKS.parse(text)
    headings = (after for token, after in pairwise(tokens) if token.type == "heading_open")
    titles = (_plain(_INLINE.parseInline(heading.content)) for heading in headings)
    return next(filter(None, titles), "")


def _plain(blocks: list[Token]) -> str:
    pieces = (piece for block in blocks for piece in block.children or [])
    return " ".join("".join(_words(piece) for piece in pieces).split())


def _words(piece: Token) -> str:
    if piece.type in ("softbreak", "hardbreak"):
        return " "
    return piece.content if piece.type in ("text", "code_inline", "image", "text_special") else ""
