"""`ragstone demo`: the main job on real documents, in one command."""

import os
import shlex
import shutil
import sys
from pathlib import Path

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
    # A URL may hold a password.
    ragstone = f"{_command()} --data {'URL' if is_url(data) else shlex.quote(data)}"
    console.print("The demonstration has left nothing running. Next:")
    for command, why in (
        (f'{ragstone} ask {COLLECTION} "What is a lambda?"', "ask it something else"),
        (f"{ragstone} ingest my-notes path/to/a/folder", "ingest documents of your own"),
        (f"{ragstone} serve", "serve them over HTTP; /docs shows the API"),
    ):
        console.print(Text.assemble("  ", (command, "bold"), "\n      ", (why, "dim")), soft_wrap=True)


def _command() -> str:
    """`ragstone` as it can be typed here: by its path where it is not on the PATH."""
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "ragstone" and not shutil.which("ragstone") else "ragstone"
