"""HTML into its title and a text that reads like Markdown, so that the chunker sees its structure."""

import codecs
import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from backends.errors import InvalidDocument
from retrieval.parsing.decoding import check_text, decode
from retrieval.parsing.html_text import HtmlText, collapsed

_DROPPED = frozenset({"head", "nav", "noscript", "script", "style", "svg", "template"})
_MAKES_LAYOUT = frozenset({"table", "h1", "h2", "h3", "h4", "h5", "h6", "pre"})

_DECLARATION = re.compile(rb"<(?:meta|\?xml)\b[^>]*?\b(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_DECLARED_WITHIN = 1024  # bytes, as in browsers
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# Browsers read these as Windows-1252; and a page whose ASCII declares UTF-16 cannot be in it.
_MEANT = {"ascii": "cp1252", "iso8859-1": "cp1252", "utf-16": "utf-8", "utf-16-le": "utf-8", "utf-16-be": "utf-8"}
_CHARSETS = ("utf-8", "cp", "iso", "koi8", "mac", "gb", "big5", "euc", "shift")

_MAX_DEPTH = 2_000
_TAG = re.compile(r"<(\\?/)?([a-zA-Z][\w:-]*)([^<>]*)>")
_CANNOT_NEST = frozenset({"a", "button", "dd", "dt", "form", "li", "nobr", "optgroup", "option", "p", "rp", "rt"})
_CANNOT_NEST |= {"colgroup", "tbody", "td", "tfoot", "th", "thead", "tr", "h1", "h2", "h3", "h4", "h5", "h6"}
_CANNOT_NEST |= {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


def read_html(name: str, data: bytes) -> tuple[str, str]:
    """Return the title (of `<title>`, else of the first `<h1>`, else empty) and the text of an HTML page.

    The bytes are UTF-8, or what the page declares. Raises InvalidDocument, whose field is `name`.
    """
    source = decode(name, data, _encoding(name, data)).removeprefix("\ufeff")
    check_text(name, source)
    _check_depth(name, source)
    page = LexborHTMLParser(source)
    return _title(page), _text(page)


def _encoding(name: str, data: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return encoding
    declaration = _DECLARATION.search(data[:_DECLARED_WITHIN])
    return _known_encoding(name, declaration[1].decode("ascii", "replace")) if declaration else "utf-8"


def _known_encoding(name: str, label: str) -> str:
    try:
        codec = codecs.lookup(label).name
    except LookupError:
        codec = ""
    encoding = _MEANT.get(codec, codec)
    if not encoding.startswith(_CHARSETS):  # Python has codecs that are no character sets, and slow ones
        raise InvalidDocument(name, f"found the declared charset {label!r}, which is not known; needed UTF-8")
    return encoding


def _check_depth(name: str, source: str) -> None:
    """Refuse elements left open by the thousand: the time that a parser takes grows with the square of their depth."""
    depth = 0
    for tag in _TAG.finditer(source):
        if tag[2].lower() not in _CANNOT_NEST and not tag[3].endswith("/"):
            depth = max(0, depth - 1) if tag[1] else depth + 1
            if depth > _MAX_DEPTH:
                problem = f"found more than {_MAX_DEPTH} elements inside each other; needed a page with end tags"
                raise InvalidDocument(name, problem)


def _title(page: LexborHTMLParser) -> str:
    named = (page.css_first("head > title"), page.css_first("body h1"))
    titles = (collapsed(node.text()) for node in named if node is not None)
    return next(filter(None, titles), "")


def _text(page: LexborHTMLParser) -> str:
    if page.body is None:
        return ""
    layout_tables = _layout_tables(page.body)
    text = HtmlText()
    for node, tag, entering in _walk(page.body):
        if not entering:
            text.close()
            continue
        text.open(tag, is_layout=node.mem_id in layout_tables)
        text.add(node.text_content or "")
    return text.finished()


def _layout_tables(body: LexborNode) -> set[int]:
    """The tables that hold headings, code or tables: they arrange a page, their cells are no data."""
    tables: list[int] = []
    layout: set[int] = set()
    for node, tag, entering in _walk(body):
        if entering and tag in _MAKES_LAYOUT:
            layout.update(tables[-1:])
        if tag == "table":
            tables.append(node.mem_id) if entering else tables.pop()
    return layout


def _walk(root: LexborNode) -> Iterator[tuple[LexborNode, str, bool]]:
    """Yield each node below `root` on entering (True) and on leaving (False) it, without recursion."""
    ancestors: list[tuple[LexborNode, str]] = []
    node = root.first_child
    while node is not None or ancestors:
        if node is None:
            node, tag = ancestors.pop()
            yield node, tag, False
            node = node.next
            continue
        tag = node.tag or ""
        if tag in _DROPPED:
            node = node.next
            continue
        yield node, tag, True
        ancestors.append((node, tag))
        node = node.first_child
