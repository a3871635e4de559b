"""Pieces of the report's HTML."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1150px; margin: 2em auto; padding: 0 1em; color: #1b1f24; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #d0d7de; }
table { border-collapse: collapse; font-size: 13px; margin: 0.8em 0; }
th, td { padding: 3px 9px; border-bottom: 1px solid #e4e8ec; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.met td.verdict { color: #116329; } tr.missed td.verdict { color: #a40e26; font-weight: 600; }
tr.not td { color: #6e7781; } tr.ours { background: #f3f7fc; }
img { max-width: 100%; } code, pre { font-size: 12px; } p.note { color: #57606a; }
"""
NOTHING = "-"
Cell = str | int | float | None


class Row(list[Any]):
    """Cells of a table, and the class by which it is shown."""

    def __init__(self, cells: Iterable[Cell], shown_as: str = "") -> None:
        super().__init__(cells)
        self.shown_as = shown_as


def page(title: str, body: Iterable[str]) -> str:
    """A whole document that needs no other file."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return (
        f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{escape(title)}</h1>{"".join(body)}</body></html>'
    )


def section(title: str, *pieces: str) -> str:
    """A heading and what follows it; nothing where nothing follows."""
    return f"<h2>{escape(title)}</h2>{''.join(pieces)}" if any(pieces) else ""


def paragraph(words: str) -> str:
    """A paragraph of plain words."""
    return f'<p class="note">{escape(words)}</p>'


def table(headings: Sequence[str], rows: Sequence[Row]) -> str:
    """A table, or nothing without rows. Numbers stand to the right; a column headed "verdict" is coloured."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f'<tr class="{escape(row.shown_as)}">{"".join(map(_cell, headings, row))}</tr>' for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(png: bytes, words: str) -> str:
    """A PNG within the page."""
    return f'<p><img alt="{escape(words)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'


def number(value: float | None) -> str:
    """Three digits that count, or a dash."""
    if value is None:
        return NOTHING
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(values: dict[str, float] | None) -> str:
    """A median with its lowest and highest."""
    if values is None:
        return NOTHING
    return f"{number(values['median'])} ({number(values['lowest'])} to {number(values['highest'])})"


def _cell(heading: str, value: Cell) -> str:
    if heading == "verdict":
        return f'<td class="verdict">{escape(str(value))}</td>'
    if isinstance(value, int | float) or value is None:
        return f'<td class="number">{number(value)}</td>'
    is_number = value[:1].isdigit() or value == NOTHING
    return f'<td class="{"number" if is_number else ""}">{escape(value)}</td>'
