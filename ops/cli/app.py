"""The command `ragstone`: its options, its commands, and how it ends."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from types import FrameType
from typing import Annotated, NoReturn

import typer

from ops.cli import backup, collections, cost, latency, move, recall
from ops.cli.demo import demo
from ops.cli.evaluate import evaluate_collection
from ops.cli.failures import FINDING, FINE, INTERRUPTED, report
from ops.cli.health import health
from ops.cli.ingest import ingest
from ops.cli.query import ask, retrieve
from ops.cli.serve import serve
from ops.cli.session import Session, session
from ops.cli.status import status
from ops.output import Output, end_broken_pipe, prepare_streams

EXITS = "Exit status: 0 fine, 1 a finding, 2 wrong usage or settings, 3 something could not be reached."

app = typer.Typer(
    name="ragstone",
    help="Answers from your own documents: ingest, retrieve, ask, and serve them over HTTP.",
    epilog=EXITS,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Run the command line, and end with its exit status."""
    prepare_streams()
    signal.signal(signal.SIGTERM, _end)
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit status. What goes wrong is said in one line."""
    state = Session(verbose=os.environ.get("RAGSTONE_DEBUG", "0") not in ("", "0"))
    try:
        status = app(list(args), prog_name="ragstone", standalone_mode=False, obj=state)
        sys.stdout.flush()
    except BrokenPipeError:
        end_broken_pipe()
    except typer.Abort:
        Output().note("ragstone: nothing was done.")
        return FINDING
    except Exception as error:
        return report(error, args, verbose=state.verbose)
    if status == INTERRUPTED:
        Output().note("ragstone: interrupted.")
    return status if isinstance(status, int) else FINE


def show_version(wanted: bool) -> None:
    """Print the version and end, where that was asked for."""
    if wanted:
        Output().results.print(f"ragstone {version('ragstone')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="PATH_OR_URL",
            envvar="RAGSTONE_DATA",
            help="Where the corpus is: a folder for an embedded PostgreSQL, or a postgresql:// URL.",
            show_default="./ragstone-data",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log what is done, and show where errors come from.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    state = session(context)
    state.data = data
    state.verbose = state.verbose or verbose
    _log(verbose=state.verbose)


app.command()(demo)
app.command()(serve)
app.command()(ingest)
app.command()(retrieve)
app.command()(ask)
app.add_typer(collections.commands, name="collections")
app.add_typer(move.commands, name="move")
app.add_typer(backup.commands, name="backup")
app.add_typer(latency.commands, name="latency")
app.add_typer(recall.commands, name="recall")
app.add_typer(cost.commands, name="cost")
app.command()(health)
app.command()(status)
app.command("eval")(evaluate_collection)


def _log(*, verbose: bool) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)
    if not verbose:  # they are for those who write the libraries, not for those who use them
        logging.getLogger("py.warnings").setLevel(logging.ERROR)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave as on any other way out, so that the last one out stops the embedded PostgreSQL."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)
