"""`ragstone latency`: how long each stage takes, and what was slow."""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backends.corpus.latencies import SlowSearch, slow_searches_since
from backends.errors import InvalidInput
from ops.cli.options import Json
from ops.cli.session import session
from ops.latency.report import StageLatency
from ops.latency.report import report as report_on
from ops.latency.stages import SEARCH_STAGES
from ops.output import Output, milliseconds, printable

commands = typer.Typer(no_args_is_help=True, help="Report latencies.")

UNIT_S = {"m": 60, "h": 3_600, "d": 86_400}
LONGEST_S = 366 * 86_400
SHOWN_SLOW = 20

CollectionOption = Annotated[
    str | None, typer.Option("--collection", metavar="COLLECTION", help="Of this collection alone.")
]
Since = Annotated[str, typer.Option("--since", metavar="TIME", help="How far back: 30m, 24h, 7d.")]


class By(StrEnum):
    """What the times of answers are told apart by."""

    INPUT_LENGTH = "input-length"


@commands.command()
def report(
    context: typer.Context,
    collection: CollectionOption = None,
    since: Since = "24h",
    by: Annotated[By | None, typer.Option("--by", help="Show the times to a token by the prompt's length.")] = None,
    slow: Annotated[bool, typer.Option("--slow", help="Show the slowest searches, with PostgreSQL's plans.")] = False,
    as_json: Json = False,
) -> None:
    """Show the percentiles of each stage, of all processes that served this corpus.

    They are of what ended well; the share that did not is shown beside. A process gives the corpus what it counted at
    every full minute. What is older than a day is known by the hour, older than 30 days by the day.
    """
    output = Output(as_json=as_json)
    from_at = datetime.now(UTC) - read_span(since)
    document: dict[str, Any] = {"since": from_at.isoformat(timespec="seconds")}
    with session(context).open(output) as rag:
        if slow:
            searches = slow_searches_since(rag.database, from_at, collection, SHOWN_SLOW)
        else:
            stages = report_on(rag.database, from_at, collection, by_length=by is not None)
    if slow:
        document["slow"] = [_slow_json(search) for search in searches]
        output.result(document, lambda console: _show_slow(console, searches, since))
    else:
        document["stages"] = [stage.as_dict() for stage in stages]
        output.result(document, lambda console: _show_stages(console, stages, since))


def read_span(text: str) -> timedelta:
    """Read `30m`, `24h` or `7d`; raises InvalidInput."""
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    seconds = int(found[1]) * UNIT_S[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_S:
        raise InvalidInput("--since", f"found {text!r}; needed minutes, hours or days up to a year, as 30m, 24h or 7d")
    return timedelta(seconds=seconds)


def _show_stages(console: Console, stages: Iterable[StageLatency], since: str) -> None:
    if not stages:
        console.print(f"Nothing was recorded in the last {since}. `ragstone serve` records while it serves.")
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("collection", overflow="fold")
    for name in ("backend", "stage"):
        table.add_column(name, no_wrap=True)
    for name in ("count", "p50", "p95", "p99", "p99.9", "max", "errors"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in stages:
        table.add_row(*_cells(one))
    console.print(table)
    console.print(f"Milliseconds, in the last {since}.", style="dim")


def _cells(one: StageLatency) -> list[str]:
    figures = [*(one.percentiles_ms or dict.fromkeys(("p50", "p95", "p99", "p99.9"))).values(), one.max_ms]
    shown = ["-" if value is None else _figure(value) for value in figures]
    errors = f"{one.errors:.2%}" if one.errors else "0"
    return [printable(one.collection), one.backend, one.stage, f"{one.count:,}", *shown, errors]


def _figure(value_ms: float) -> str:
    """Three significant digits: a bucket is no finer."""
    return f"{value_ms:,.0f}" if value_ms >= 100 else f"{value_ms:.3g}"


def _show_slow(console: Console, searches: Iterable[SlowSearch], since: str) -> None:
    if not searches:
        console.print(f"No slow search was kept in the last {since}; the setting slow_query_ms says what is slow.")
        return
    for one in searches:
        console.print(printable(_headline(one)), soft_wrap=True)
        console.print("  ", milliseconds(_in_order(one.timings_ms)))
        for line in plan_lines(one.plan):
            console.print(f"  {printable(line)}", soft_wrap=True)


def _in_order(timings_ms: dict[str, float]) -> dict[str, float]:
    """JSON in PostgreSQL keeps no order."""
    return {stage: timings_ms[stage] for stage in SEARCH_STAGES if stage in timings_ms}


def _headline(one: SlowSearch) -> str:
    how = "exact" if one.exact else f"effort {one.effort or 'default'}"
    filtered = "" if one.filter is None else f", filter {json.dumps(one.filter, ensure_ascii=False)}"
    when = f"{one.seen_at:%Y-%m-%d %H:%M:%S}"
    return f"{when} {one.collection} on {one.backend}: {one.outcome}, top_k {one.top_k}, {how}{filtered}"


def plan_lines(plan: list[Any] | None) -> list[str]:
    """Return the nodes of a plan as EXPLAIN FORMAT JSON gives it, one a line, those below indented."""
    return [] if not plan else _node_lines(plan[0]["Plan"], 0)


def _node_lines(node: dict[str, Any], depth: int) -> list[str]:
    what = " ".join(str(node[key]) for key in ("Index Name", "Relation Name", "CTE Name") if key in node)
    cost = f"cost {node.get('Total Cost', 0):,.0f}, rows {node.get('Plan Rows', 0):,}"
    line = f"{'  ' * depth}{node['Node Type']} {what}".rstrip() + f" ({cost})"
    return [line, *(line for child in node.get("Plans", []) for line in _node_lines(child, depth + 1))]


def _slow_json(one: SlowSearch) -> dict[str, Any]:
    return {
        "seen_at": one.seen_at.isoformat(timespec="milliseconds"),
        "collection": one.collection,
        "backend": one.backend,
        "top_k": one.top_k,
        "filter": one.filter,
        "effort": one.effort,
        "exact": one.exact,
        "outcome": one.outcome,
        "timings_ms": one.timings_ms,
        "plan": one.plan,
    }
