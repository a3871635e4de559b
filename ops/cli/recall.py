"""`ragstone recall`: measuring what an index finds of what it should, how that went, and tuning it."""

import re
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backends.corpus.collections import find_collection
from backends.efforts import BANDS, Band
from backends.errors import InvalidInput
from backends.filters import parse
from ops import recall
from ops.cli.failures import FINDING
from ops.cli.options import Collection, FilterText, Json, read_filter
from ops.cli.session import session
from ops.output import Output
from ops.recall.steps import Step
from ops.recall.tuning import QUERIES
from retrieval.placement import recall_target_of

commands = typer.Typer(no_args_is_help=True, help="Measure recall against exact search, and tune it.")

_RECALL = ("recall", "95% interval", "p5")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_SINCE = re.compile(r"(\d{1,4})([mhd])")


class BandName(StrEnum):
    """The bands of filter selectivity, as the command line names them."""

    ALL = "all"
    TENTH = "10%"
    HUNDREDTH = "1%"
    THOUSANDTH = "0.1%"
    LESS = "<0.1%"


@commands.command()
def measure(
    context: typer.Context,
    collection: Collection,
    queries: Annotated[int, typer.Option("--queries", metavar="N", min=2, help="Queries to ask, at most.")] = 200,
    drawn: Annotated[
        bool, typer.Option("--drawn", help="Ask made-up queries, near stored embeddings, and no captured ones.")
    ] = False,
    filter_text: FilterText = None,
    as_json: Json = False,
) -> None:
    """Measure recall now, on captured queries; on drawn ones where fewer than 20 are captured.

    Exit status 1 where the whole 95% interval of a band lies below the collection's target.
    """
    output = Output(as_json=as_json)
    filter = parse(read_filter(filter_text))
    with session(context).open(output) as rag, output.waiting("Comparing with exact searches ..."):
        found = recall.measure_now(rag, collection, queries, drawn=drawn, filter=filter)
    output.result(_report_json(collection, found), lambda console: _show_report(console, found))
    if any(band.below for band in found.bands):
        raise typer.Exit(FINDING)


@commands.command()
def history(
    context: typer.Context,
    collection: Collection,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="How far back: for example 90m, 24h or 7d.")
    ] = "7d",
    as_json: Json = False,
) -> None:
    """Show the recall of what users asked, as it was measured while the service ran: by hours, later by days."""
    output = Output(as_json=as_json)
    back = _read_since(since)
    with session(context).open(output) as rag:
        periods = recall.history(rag, collection, back)
        target = recall_target_of(find_collection(rag.database, collection), rag.settings)
    document = {"collection": collection, "target": target, "periods": [_period_json(one) for one in periods]}
    output.result(document, lambda console: _show_history(console, periods, target))


@commands.command()
def tune(
    context: typer.Context,
    collection: Collection,
    target: Annotated[
        float | None, typer.Option("--target", metavar="RECALL", help="Default: the collection's own.")
    ] = None,
    band: Annotated[
        BandName | None, typer.Option("--band", help="Only filters of this selectivity. Default: all that are asked.")
    ] = None,
    queries: Annotated[
        int, typer.Option("--queries", metavar="N", min=30, help="Queries of a band, at most.")
    ] = QUERIES,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be set.")] = False,
    as_json: Json = False,
) -> None:
    """Find the least search effort that surely reaches a recall on what users ask, and set it.

    Searches are watched afterwards while the service runs; where they get worse, the effort is taken back. Exit
    status 1 where the target is not reached.
    """
    output = Output(as_json=as_json)
    with session(context).open(output) as rag, output.waiting("Comparing with exact searches ..."):
        if target is None:
            target = recall_target_of(find_collection(rag.database, collection), rag.settings)
        found = recall.tune(rag, collection, target, band=_band(band), count=queries, dry_run=dry_run)
    document = {"collection": collection, "dry_run": dry_run, "bands": [_tuning_json(one) for one in found]}
    output.result(document, lambda console: _show_tunings(console, found))
    if any(one.chosen is None and one.now.recall.low < one.target for one in found):
        raise typer.Exit(FINDING)


def _band(name: BandName | None) -> Band | None:
    return next((band for band in BANDS if band == name), None)


def _read_since(text: str) -> timedelta:
    parts = _SINCE.fullmatch(text)
    if parts is None:
        raise InvalidInput("--since", f"found {text!r}; needed a number and m, h or d, for example 7d")
    return timedelta(**{_UNITS[parts[2]]: int(parts[1])})


def _report_json(collection: str, found: recall.Report) -> dict[str, Any]:
    bands = [asdict(band) | {"below_target": band.below} for band in found.bands]
    return {"collection": collection, "bands": bands, "left_out": found.left_out}


def _period_json(period: recall.Period) -> dict[str, Any]:
    return asdict(period) | {"began_at": period.began_at.isoformat()}


def _tuning_json(found: recall.BandTuning) -> dict[str, Any]:
    return asdict(found) | {"effort": found.effort}


def _show_report(console: Console, found: recall.Report) -> None:
    table = _table("backend", "filter matches", "queries", *_RECALL, "below 0.8", "distance", "short", "exact")
    for band in found.bands:
        of_bands = band.backend, band.band, f"{band.recall.queries:,}"
        table.add_row(*of_bands, *_recall(band.recall), _ratio(band.distance_ratio), str(band.short), str(band.exact))
    console.print(table)
    drawn = sum(band.drawn for band in found.bands)
    if drawn:
        console.print(f"{drawn:,} of the queries are drawn: made of stored embeddings, asked by nobody.")
    if found.left_out:
        console.print(f"{found.left_out:,} queries are left out: their exact answer takes too long.")
    for band in found.bands:
        if band.below:
            console.print(f"{band.band}: below the target of {band.target:g}", style="red")


def _show_history(console: Console, periods: list[recall.Period], target: float) -> None:
    if not periods:
        console.print("Nothing was measured in this time: recall is measured while `ragstone serve` answers queries.")
        return
    table = _table("began (UTC)", "backend", "filter matches", "queries", *_RECALL, "below 0.8", "distance")
    for one in periods:
        began = f"{one.began_at:%Y-%m-%d}" if one.span_s > 3_600 else f"{one.began_at:%Y-%m-%d %H:00}"
        style = "red" if one.recall.high < target else None
        cells = began, one.backend, one.band, f"{one.recall.queries:,}"
        table.add_row(*cells, *_recall(one.recall), _ratio(one.distance_ratio), style=style)
    console.print(table)


def _show_tunings(console: Console, found: list[recall.BandTuning]) -> None:
    for number, one in enumerate(found):
        if number:
            console.print()
        console.print(f"Filter matches: {one.band}. {one.queries:,} queries, {one.drawn:,} of them made up.")
        table = _table(one.knob, "mean", "95% interval", "p50 ms", "p95 ms")
        for step in (one.now, *one.steps):
            table.add_row(*_step(step, step is one.now), style="bold" if step is one.chosen else None)
        console.print(table)
        console.print(_outcome(one), soft_wrap=True)


def _step(step: Step, now: bool) -> tuple[str, ...]:
    effort = "default" if step.effort is None else str(step.effort)
    mean, interval, *_ = _recall(step.recall)
    return f"now: {effort}" if now else effort, mean, interval, f"{step.p50_ms:.1f}", f"{step.p95_ms:.1f}"


def _outcome(one: recall.BandTuning) -> str:
    if one.problem is not None or one.chosen is None:
        return f"Target {one.target:g}: {one.problem}."
    change_ms = one.chosen.p50_ms - one.now.p50_ms
    verdict = "is set" if one.applied else "is what searches take already" if one.effort == one.now.effort else "fits"
    checked = "" if one.checked is None else f" On {one.checked.queries:,} other queries: {one.checked.mean:.4f}."
    return f"{one.knob} {one.effort} {verdict}: {change_ms:+.1f} ms on the median.{checked}"


def _recall(found: recall.RecallSummary) -> tuple[str, str, str, str]:
    return f"{found.mean:.4f}", f"{found.low:.4f} to {found.high:.4f}", f"{found.p5:.2f}", f"{found.below_08:.1%}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.4f}"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column)
    return table
