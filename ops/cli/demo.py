"""`ragstone demo`: the main job on real documents, in one command."""

import shlex

import typer
from rich.console import Console
from rich.text import Text

from ops.cli.query import show_answer
from ops.cli.session import is_url, session
from ops.demo import COLLECTION, QUESTION, Demonstrated, demonstrate
from ops.output import Output
from ops.progress import duration

FOLDER = "ragstone-demo"
"""Where the demonstration keeps its corpus: beside the user's own, which it leaves alone."""


def demo(context: typer.Context) -> None:
    """Ingest the Python language reference, ask it a question, and show how the answer came about."""
    output = Output()
    here = session(context)
    if here.data is None:
        here.data = FOLDER
    where = "the PostgreSQL server given" if is_url(here.data) else f"an embedded PostgreSQL in {here.data}"
    output.note(f"Corpus: {where}")
    with here.open(output, creating=True) as rag:
        shown = demonstrate(rag, output)
    _show(output.results, shown, here.data)


def _show(console: Console, shown: Demonstrated, data: str) -> None:
    console.print(_ingested(shown), soft_wrap=True)
    console.print()
    console.print(Text.assemble(("Question: ", "dim"), (QUESTION, "bold")))
    console.print()
    show_answer(console, shown.answer)
    console.print()
    _show_next(console, data)


def _ingested(shown: Demonstrated) -> str:
    report = shown.ingested.report
    took = duration(shown.ingested.duration_s)
    if report.upserted:
        done = f"{report.upserted} of them in {report.chunks} chunks, embedded in {took}"
    else:
        done = f"{report.unchanged} of them, all unchanged: nothing was embedded ({took})"
    return f"Documents: the Python language reference, {done}."


def _show_next(console: Console, data: str) -> None:
    ragstone = "ragstone" if is_url(data) else f"ragstone --data {shlex.quote(data)}"
    console.print("PostgreSQL is stopped, and nothing is left running. Next:" if not is_url(data) else "Next:")
    for command, why in (
        (
            f'{ragstone} ask {COLLECTION} "What happens in a finally clause when an exception occurs?"',
            "ask it something else",
        ),
        (f"{ragstone} ingest my-notes path/to/a/folder", "ingest documents of your own"),
        (f"{ragstone} serve", "serve them over HTTP; /docs shows the API"),
    ):
        console.print(Text.assemble("  ", (command, "bold"), "\n      ", (why, "dim")), soft_wrap=True)
