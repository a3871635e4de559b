"""The text of an HTML page, put together as its elements open and close."""

import re
from collections.abc import Callable
from functools import partial

_HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_LINES = frozenset({"br", "dd", "dt", "li", "optgroup", "option", "tr"})
_BLOCKS = frozenset(
    {"address", "article", "aside", "blockquote", "center", "dialog", "div", "footer", "form", "header"}
)
_BLOCKS |= {"caption", "details", "dl", "fieldset", "figcaption", "figure", "hgroup", "hr", "legend", "main", "p"}
_BLOCKS |= {"pre", "search", "section", "summary", "table", "td", "th", *_HEADINGS}
_GAPS = dict.fromkeys(_LINES, "\n") | dict.fromkeys(_BLOCKS, "\n\n")
_SPACE = re.compile(r"[ \t\r\n\f\xa0]+")
_FENCE = re.compile("`{3,}")

Ending = Callable[[], None]


def collapsed(text: str) -> str:
    """`text` with each run of white space as one space, and none at its ends."""
    return _SPACE.sub(" ", text).strip(" ")


class HtmlText:
    """Builds the text: a blank line between blocks, a line end between list items and between table rows.

    Headings become `# Heading`, items `- item` or `1. item`, the cells of a row `one | two`, and preformatted
    text a fenced block.
    """

    def __init__(self) -> None:
        self._finished: list[str] = []
        self._line: list[str] = []
        self._prefix = ""  # what the next line begins with
        self._gap = ""  # what stands before it
        self._is_flat = False  # in a heading or a row of data, which stay on one line
        self._counts: list[int | None] = []  # of the open lists: items so far, None for bullets
        self._is_layout: list[bool] = []  # of the open tables
        self._cells: list[str] | None = None  # of the open row of data
        self._verbatim: list[str] | None = None  # of the open preformatted text
        self._endings: list[Ending] = []  # of the open elements

    def add(self, text: str) -> None:
        """Add the contents of a text node."""
        (self._line if self._verbatim is None else self._verbatim).append(text)

    def open(self, tag: str, is_layout: bool = False) -> None:
        """Begin an element. `is_layout` says of a table that its cells are parts of the page, not data."""
        self._endings.append(self._begun(tag, is_layout))

    def close(self) -> None:
        """End the element that was begun last."""
        self._endings.pop()()

    def finished(self) -> str:
        """The text; nothing may be added afterwards."""
        self._end_line("\n\n")
        return "".join(self._finished).strip("\n")

    def _begun(self, tag: str, is_layout: bool) -> Ending:
        """Begin an element and return what ends it."""
        if self._verbatim is not None:
            self._verbatim.append("\n" if tag == "br" else "")
            return _nothing
        if tag in ("ul", "ol", "menu"):
            return self._begin_list(0 if tag == "ol" else None)
        gap = _GAPS.get(tag)
        if gap is None:
            return _nothing
        self._end_line(gap)
        if tag == "table":
            return self._begin_table(is_layout)
        if tag == "tr" and self._is_layout and not self._is_layout[-1] and not self._is_flat:
            return self._begin_row()
        if tag in ("td", "th") and self._cells is not None:
            return self._end_cell
        return partial(self._end_line, gap) if self._is_flat else self._begin_block(tag, gap)

    def _begin_block(self, tag: str, gap: str) -> Ending:
        if tag in _HEADINGS:
            self._prefix, self._is_flat = _HEADINGS[tag], True
            return self._end_heading
        if tag == "pre":
            self._verbatim = []
            return self._end_verbatim
        if tag == "li":
            self._prefix = self._marker()
            return self._end_item
        return partial(self._end_line, gap)

    def _end_heading(self) -> None:
        self._is_flat = False
        self._end_line("\n\n")
        self._prefix = ""

    def _end_verbatim(self) -> None:
        text = "".join(self._verbatim or ()).rstrip()
        fence = "`" * max([3, *(len(found) + 1 for found in _FENCE.findall(text))])
        self._verbatim = None
        self._prefix = ""
        self._emit(f"{fence}\n{text}\n{fence}" if text else "")
        self._gap = "\n\n"

    def _begin_list(self, count: int | None) -> Ending:
        self._end_line("\n" if self._counts else "\n\n")
        self._counts.append(count)
        return self._end_list

    def _end_list(self) -> None:
        self._counts.pop()
        self._end_line("\n" if self._counts else "\n\n")

    def _marker(self) -> str:
        indent = "  " * (len(self._counts) - 1)
        if not self._counts or self._counts[-1] is None:
            return f"{indent}- "
        self._counts[-1] += 1
        return f"{indent}{self._counts[-1]}. "

    def _end_item(self) -> None:
        self._end_line("\n")
        self._prefix = ""

    def _begin_table(self, is_layout: bool) -> Ending:
        self._is_layout.append(is_layout)
        return self._end_table

    def _end_table(self) -> None:
        self._is_layout.pop()
        self._end_line("\n\n")

    def _begin_row(self) -> Ending:
        self._cells, self._is_flat = [], True
        return self._end_row

    def _end_cell(self) -> None:
        if self._cells is not None:
            self._cells.append(self._taken_line())

    def _end_row(self) -> None:
        self._line = [" | ".join(self._cells or ()).rstrip("| ")]
        self._cells, self._is_flat = None, False
        self._end_line("\n")

    def _end_line(self, gap: str) -> None:
        """End the line, with at least `gap` before the next one; a flat line goes on after a space."""
        if self._is_flat:
            self._line.append(" ")
            return
        self._emit(self._taken_line())
        if not self._prefix:  # a paragraph that begins an item stands beside its marker
            self._gap = max(self._gap, gap)

    def _emit(self, text: str) -> None:
        if text:
            self._finished += [self._gap, self._prefix, text]
            self._gap = self._prefix = ""

    def _taken_line(self) -> str:
        line = collapsed("".join(self._line))
        self._line = []
        return line


def _nothing() -> None:
    """End an element that neither breaks the line nor changes it."""
