"""`ragstone status`: the corpus, the collections and the models on one screen."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops.cli.failures import FINDING, UNREACHABLE
from ops.cli.health import STYLES
from ops.cli.options import Json
from ops.cli.session import session
from ops.generation.figures import EngineFigures
from ops.output import Output, printable
from ops.status import CollectionStatus, ServiceStatus, Status
from ops.status import status as status_of

METRICS_WORDS = {"no_metrics": "it has no metrics that are known here", "away": "its metrics cannot be read"}


def status(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", metavar="URL", help="Ask this running service, too: http://127.0.0.1:8000.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show whether everything is there, and how busy it is.

    The model server is looked at twice, a second apart: what it does in that second is its speed. How many answers
    wait for their turn only the service knows that gives them: name it with `--url`. Exit status 3 where the model
    server or the service does not answer, 1 where one of them is not well.
    """
    output = Output(as_json=as_json)
    with session(context).open(output) as rag, output.waiting("Looking ..."):
        found = status_of(rag, url)
    output.result(found.as_dict(), lambda console: _show(console, found))
    if found.unreachable:
        raise typer.Exit(UNREACHABLE)
    if found.has_findings:
        raise typer.Exit(FINDING)


def _show(console: Console, found: Status) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("corpus", printable(f"{found.corpus}; answered in {found.corpus_ms:.1f} ms"))
    for collection in found.collections:
        table.add_row("collection", printable(_collection_words(collection)))
    table.add_row("embedder", printable(found.embedder))
    table.add_row("generator", printable(_generator_words(found)))
    if found.generator is not None and found.generator.figures is not None:
        table.add_row("", _figures_words(found.generator.figures))
    if found.service is not None:
        table.add_row("service", printable(_service_words(found.service)))
    console.print(table)
    _show_findings(console, found)


def _show_findings(console: Console, found: Status) -> None:
    for check in found.findings:
        console.print(Text(check.level, style=STYLES[check.level]), printable(f"{check.name}: {check.detail}"))
        console.print(f"  {printable(check.hint)}", soft_wrap=True)
    for name, level in (found.service.findings if found.service else {}).items():
        console.print(Text(level), printable(f"{name}: the service says so; see `ragstone health`"))


def _collection_words(one: CollectionStatus) -> str:
    words = f"{one.name}: {one.documents:,} documents, {one.chunks:,} chunks in {one.backend}"
    if one.behind:
        words += f", {one.behind:,} changes behind"
    return words if one.away_since is None else f"{words}, away since {one.away_since}"


def _generator_words(found: Status) -> str:
    one = found.generator
    if one is None:
        words = "extractive: no model server is configured (generator_url)"
        return words if found.service is None else f"{words} for this command; the service has settings of its own"
    if one.problem is not None:
        return f"{one.url}: {one.problem}"
    window = "unknown" if one.window_tokens is None else f"{one.window_tokens:,} tokens"
    words = f"{one.url}: {one.model}, window {window}"
    return f"{words}; {METRICS_WORDS[one.metrics]}" if one.metrics in METRICS_WORDS else words


def _figures_words(one: EngineFigures) -> str:
    parts = {
        "running": _number(one.running),
        "waiting": _number(one.waiting),
        "KV cache": _share(one.kv_cache_usage),
        "prefix hits": _share(one.prefix_hit_rate),
        "tokens/s": _number(one.generation_tokens_per_s),
        "preemptions/s": _number(one.preemptions_per_s),
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value)


def _service_words(one: ServiceStatus) -> str:
    if one.problem is not None:
        return f"{one.url}: {one.problem}"
    has = one.admission
    words = (
        f"{one.url}: {has.get('running', 0):.0f} of {has.get('places', 0):.0f} answers under way, "
        f"{has.get('waiting', 0):.0f} wait, {has.get('refused', 0):.0f} were refused"
    )
    return words if one.breaker is None else f"{words}; breaker {one.breaker.replace('_', ' ')}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g} %"
