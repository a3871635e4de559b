"""`ragstone health`: what is not well in the corpus and its indexes, what to do about it, and doing it."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.cli.failures import FINDING, UNREACHABLE
from ops.cli.options import Json
from ops.cli.session import session
from ops.health.check import Check, Fix, Level
from ops.health.fixing import Fixed, fixes_for, mend
from ops.health.running import Report, run
from ops.output import Output, printable
from ops.progress import duration

STYLES: dict[Level, str] = {"crit": "bold red", "warn": "yellow", "unknown": "magenta", "ok": "green"}


def health(
    context: typer.Context,
    collection: Annotated[
        str | None,
        typer.Argument(metavar="COLLECTION", help="One collection; default: all, and the server.", show_default=False),
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Do what mends the findings safely, after asking.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Check PostgreSQL, the collections and their vector indexes, and say what to do about what is wrong.

    Each check ends as ok, warn, crit, or unknown where it could not be looked at. Exit status 1 where one is warn or
    crit, 3 where none is and one is unknown. `--fix` vacuums, rebuilds indexes while they serve, and deletes what
    nothing leads to; it shows what before it does it, then checks again.
    """
    output = Output(as_json=as_json)
    with session(context).open(output) as rag:
        with output.waiting("Checking ..."):
            report = run(rag, collection)
        fixes = fixes_for(rag, report.findings) if fix else []
        done: list[Fixed] = []
        if fixes and _agreed(output, fixes, yes):
            done = mend(fixes, lambda description: output.note(f"{description} ..."))
            with output.waiting("Checking again ..."):
                report = run(rag, collection)
    document = report.as_dict() | {"fixes": [asdict(one) for one in done]}
    output.result(document, lambda console: _show(console, report, done))
    _end(report, done)


def _agreed(output: Output, fixes: Iterable[Fix], yes: bool) -> bool:
    output.note("This can be done:")
    for fix in fixes:
        output.note(f"  {printable(fix.description)}")
    return yes or typer.confirm("Do it?", err=True)


def _end(report: Report, done: Iterable[Fixed]) -> None:
    if report.findings or any(one.problem for one in done):
        raise typer.Exit(FINDING)
    if report.level == "unknown":
        raise typer.Exit(UNREACHABLE)


def _show(console: Console, report: Report, done: Iterable[Fixed]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("level")
    table.add_column("check", no_wrap=True)
    table.add_column("of", overflow="fold")
    table.add_column("found", overflow="fold")
    for check in report.checks:
        level = Text(check.level, style=STYLES[check.level])
        table.add_row(level, check.name, printable(_subject(check)), printable(_found(check)))
    console.print(table)
    for check in report.checks:
        if check.level != "ok":
            _show_hint(console, check)
    for one in done:
        console.print(printable(f"done: {one.description}" if one.problem is None else f"failed: {one.problem}"))
    console.print(f"\n{len(report.findings)} findings in {len(report.checks)} checks, in {duration(report.took_s)}")


def _show_hint(console: Console, check: Check) -> None:
    where = _subject(check)
    console.print()
    console.print(Text(check.level, style=STYLES[check.level]), f"{check.name}{where and f' of {printable(where)}'}")
    threshold = check.threshold and f"ok is: {check.threshold}"
    for line in dict.fromkeys((_found(check), check.detail, threshold, check.hint)):
        if line:
            console.print(f"  {printable(line)}", soft_wrap=True)


def _subject(check: Check) -> str:
    return " on ".join(part for part in (check.collection, check.backend) if part)


def _found(check: Check) -> str:
    """The value with its unit, as people read it; where nothing was measured, what was seen."""
    match check.value, check.unit:
        case None, _:
            return check.detail
        case value, "bytes":
            return f"{value / (1 << 20):,.1f} MiB"
        case value, "s":
            return duration(value)
        case value, "share":
            return f"{100 * value:.3g} %"
        case value, unit:
            return f"{value:,.0f} {unit}" if value >= 1_000 or value == int(value) else f"{value:.3g} {unit}"
