"""`ragstone cost`: what was spent, and how much of each budget is used."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from backends.corpus.spending import DIMENSIONS, Dimension, Spent
from backends.errors import InvalidInput
from ops.cli.failures import FINDING
from ops.cli.options import Json
from ops.cli.session import session
from ops.costs.clock import utc_now
from ops.costs.limits import Budget, read_budgets
from ops.costs.report import Line, Report, Standing, standings
from ops.costs.report import report as report_on
from ops.costs.showing import dollars
from ops.output import Output, printable
from retrieval.costing import Prices

commands = typer.Typer(no_args_is_help=True, help="Report what it costs, and hold it to budgets.")

SINCE = timedelta(days=30)
SHOWN_LINES = 50
NOBODY = "(none)"
HEADINGS = ("requests", "prompt", "cached", "completion", "embedding", "USD", "without a price")
ALWAYS = ("requests", "USD")
_AFTER_COMMA = re.compile(r"(?<=,) ")
EMPTY = frozenset({"0", "-"})


@commands.command()
def report(
    context: typer.Context,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="WHAT", help=f"Apart by {', '.join(DIMENSIONS)}; several with commas."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DATE", help="The first day, in UTC. Default: 30 days ago.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DATE", help="The last day. Default: today.")] = None,
    as_json: Json = False,
) -> None:
    """Show what requests used and cost, of all processes that served this corpus.

    Without --by, by collection. A request counts once; by stage or model, in each that it used. Prompt tokens are
    without the cached ones. What has no price in the file that the setting `prices` names is shown apart, and is in
    no sum of money.
    """
    output = Output(as_json=as_json)
    dimensions = read_dimensions(by or ["collection"])
    today = utc_now().date()
    first = read_date(since, "--since") or today - SINCE
    last = read_date(until, "--until") or today
    if first > last:
        raise InvalidInput("--since", f"found {first}, which is after {last}")
    with session(context).open(output) as rag:
        found, priced = report_on(rag.database, first, last, dimensions), bool(Prices.from_settings(rag.settings))
    document = {"since": first.isoformat(), "until": last.isoformat(), **_report_json(found)}
    output.result(document, lambda console: _show_report(console, found, f"{first} to {last}, UTC", priced=priced))


@commands.command()
def budgets(context: typer.Context, as_json: Json = False) -> None:
    """Show how much of each budget is used today. Exit status 1 where one is used up."""
    output = Output(as_json=as_json)
    here = session(context)
    configured = read_budgets(here.settings())
    with here.open(output) as rag:
        found = standings(rag.database, configured, utc_now().date())
    document = {"day": utc_now().date().isoformat(), "budgets": [_standing_json(standing) for standing in found]}
    output.result(document, lambda console: _show_standings(console, found))
    if any(standing.used_up for standing in found):
        raise typer.Exit(FINDING)


def read_dimensions(given: Sequence[str]) -> list[Dimension]:
    """Read what to report by: words, or lists of them with commas; raises InvalidInput."""
    words = [word.strip() for one in given for word in one.split(",")]
    for word in words:
        if word not in DIMENSIONS:
            raise InvalidInput("--by", f"found {word!r}; needed some of {', '.join(DIMENSIONS)}")
    return [dimension for dimension in DIMENSIONS if dimension in words]


def read_date(text: str | None, option: str) -> date | None:
    """Read a day as ISO 8601 has it; raises InvalidInput."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(option, f"found {text!r}; needed a day, as 2026-11-28") from None


def _report_json(found: Report) -> dict[str, Any]:
    lines = [_line_json(line) for line in found.lines]
    return {"by": found.by, "lines": lines, "total": _line_json(found.total)}


def _line_json(line: Line) -> dict[str, Any]:
    document: dict[str, Any] = {
        name: value.isoformat() if isinstance(value, date) else value for name, value in line.values.items()
    }
    return document | _spent_json(line.spent) | {"unpriced": _spent_json(line.unpriced)}


def _spent_json(spent: Spent) -> dict[str, Any]:
    figures = {field.name: getattr(spent, field.name) for field in fields(spent)}
    return {name: float(figure) if isinstance(figure, Decimal) else figure for name, figure in figures.items()}


def _show_report(console: Console, found: Report, when: str, *, priced: bool) -> None:
    if not found.lines:
        console.print(f"Nothing was recorded, {when}. `ragstone serve` records while it serves.")
        return
    # Where it is too wide, the terminal breaks its lines: figures that are cut could not be read.
    console.print(_report_table(found, console.width // (len(found.by) + 1)), crop=False)
    if len(found.lines) > SHOWN_LINES:
        console.print(f"{len(found.lines) - SHOWN_LINES:,} more lines are in the total; --json has them.")
    console.print(f"Tokens and USD, {when}.", style="dim")
    if not priced:
        console.print("Nothing has a price: the setting prices (RAGSTONE_PRICES) names a file with prices.")


def _report_table(found: Report, name_width: int) -> Table:
    """Words and figures are whole, but for names wider than `name_width`; columns without figures are left out."""
    lines = found.lines[:SHOWN_LINES]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    columns: list[list[str]] = []
    for number, name in enumerate(found.by):
        cells = [*(_value(line.values[name]) for line in lines), "" if number else "total"]
        table.add_column(name, overflow="fold", min_width=min(_widest([name, *cells]), max(name_width, len(name))))
        columns.append(cells)
    figures = zip(*(_cells(line) for line in (*lines, found.total)), strict=True)
    for heading, cells in zip(HEADINGS, map(list, figures), strict=True):
        if heading in ALWAYS or not EMPTY.issuperset(cells):
            table.add_column(heading, justify="right", min_width=_widest([*heading.split(), *cells]))
            columns.append(cells)
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    table.rows[-1].style = "bold"
    return table


def _widest(cells: Iterable[str]) -> int:
    """Of a list with commas, its parts stand one below the other."""
    return max(cell_len(part) for cell in cells for part in _AFTER_COMMA.split(cell))


def _value(value: object) -> str:
    return printable(str(value)) or NOBODY


def _cells(line: Line) -> list[str]:
    spent = line.spent
    tokens = spent.prompt_tokens, spent.cached_tokens, spent.completion_tokens, spent.embedding_tokens
    return [f"{spent.requests:,}", *(f"{count:,}" for count in tokens), dollars(spent.cost_usd), _used(line.unpriced)]


def _used(unpriced: Spent) -> str:
    """What was used without a price, in few words."""
    tokens = unpriced.prompt_tokens + unpriced.cached_tokens + unpriced.completion_tokens + unpriced.embedding_tokens
    parts = {"tokens": f"{tokens:,}", "vectors": f"{unpriced.vectors:,}", "s": f"{unpriced.gpu_s:,.1f}"}
    used = {"tokens": tokens, "vectors": unpriced.vectors, "s": unpriced.gpu_s}
    return ", ".join(f"{said} {unit}" for unit, said in parts.items() if used[unit]) or "-"


def _standing_json(standing: Standing) -> dict[str, Any]:
    budget = standing.budget
    limits = {"soft": _number(budget.soft), "hard": _number(budget.hard)}
    uses = [{"value": use.value, "used": float(budget.used(use)), "warned": use.warned} for use in standing.uses]
    return {
        "name": budget.name,
        "scope": budget.scope,
        "value": None if budget.scope == "all" else budget.value,
        "limit": budget.limit,
        "per": budget.per,
        **limits,
        "used_up": standing.used_up,
        "uses": uses,
    }


def _number(limit: Decimal | None) -> float | None:
    return None if limit is None else float(limit)


def _show_standings(console: Console, found: Sequence[Standing]) -> None:
    if not found:
        console.print("There are no budgets: the setting budgets (RAGSTONE_BUDGETS) names a file with them.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("budget", no_wrap=True)
    table.add_column("of", overflow="fold")
    for name in ("used today", "soft", "hard"):
        table.add_column(name, justify="right")
    for standing in found:
        for cells, used_up in _rows(standing):
            table.add_row(*cells, style="red" if used_up else None)
    console.print(table)


def _rows(standing: Standing) -> list[tuple[list[str], bool]]:
    """One row for each who used it; one without a use where nobody did."""
    budget = standing.budget
    limits = ["-" if limit is None else budget.said(limit) for limit in (budget.soft, budget.hard)]
    if not standing.uses:
        used = "each request" if budget.per == "request" else budget.said(Decimal())
        return [([budget.name, _of(budget, None), used, *limits], standing.used_up)]
    return [
        (
            [budget.name, _of(budget, use.value), budget.said(budget.used(use)), *limits],
            budget.hard is not None and budget.used(use) >= budget.hard,
        )
        for use in standing.uses
    ]


def _of(budget: Budget, value: str | None) -> str:
    if budget.scope == "all":
        return "all"
    if value is None:
        return f"each {budget.scope}" if budget.value == "*" else f"{budget.scope} {printable(budget.value)}"
    return f"{budget.scope} {printable(value) or NOBODY}"
