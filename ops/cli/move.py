"""`ragstone move`: what a move would take, making it, watching it, and going back."""

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backends.corpus import moves
from backends.corpus.collections import find_collection
from backends.corpus.indexes import IndexRow, indexes_of
from backends.corpus.moves import Move
from backends.errors import Conflict
from ops import moving
from ops.cli.failures import FINDING
from ops.cli.options import Collection, Json
from ops.cli.session import session
from ops.moving.dropping import longest_query_s
from ops.moving.gentle import be_gentle
from ops.output import Output, printable
from ops.progress import duration
from retrieval.library import Ragstone

commands = typer.Typer(no_args_is_help=True, help="Move a collection to another backend while it serves.")

To = Annotated[
    str | None,
    typer.Option("--to", metavar="BACKEND", help="pgvector, faiss, weaviate or pinecone; default: by its size."),
]
DROP_LOOK_S = 1.0


@commands.command()
def plan(context: typer.Context, collection: Collection, to: To = None, as_json: Json = False) -> None:
    """Say what a move would take: time, memory and disk. Nothing is moved."""
    output = Output(as_json=as_json)
    with session(context).open(output) as rag, output.waiting("Measuring ..."):
        found = moving.plan(rag, collection, to)
    output.result(found.as_dict(), lambda console: _show_plan(console, found))


@commands.command()
def start(
    context: typer.Context,
    collection: Collection,
    to: To = None,
    if_due: Annotated[
        bool, typer.Option("--if-due", help="Only go on with a move under way, or begin one that its size asks for.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build the other index, verify it and change over; or go on with a move that was left behind.

    With --to the collection stays there whatever its size, until it is moved without --to.
    """
    output = Output(as_json=as_json)
    with session(context).open(output) as rag:
        be_gentle()  # not before: a PostgreSQL that this command starts is for all
        move = moving.start_due(rag, collection) if if_due else moving.start(rag, collection, to)
        if move is None:
            output.result({"collection": collection, "phase": None}, lambda console: console.print("Nothing is due."))
            return
        with output.waiting(f"Moving {collection} from {move.source} to {move.target} ..."):
            ended = moving.work_on(rag, move)
    output.result(_move_json(ended), lambda console: _show_move(console, ended))
    if ended.phase != "done":
        raise typer.Exit(FINDING)


@commands.command()
def status(context: typer.Context, collection: Collection, as_json: Json = False) -> None:
    """Show how far a move is, and which indexes the collection has."""
    output = Output(as_json=as_json)
    with session(context).open(output) as rag:
        move, rows = _standing(rag, collection)
    document = {
        "collection": collection,
        "move": None if move is None else _move_json(move),
        "indexes": [_index_json(row) for row in rows],
    }
    output.result(document, lambda console: _show_status(console, move, rows))


@commands.command()
def rollback(context: typer.Context, collection: Collection, as_json: Json = False) -> None:
    """Go back to the index before the last move, at once."""
    output = Output(as_json=as_json)
    with session(context).open(output) as rag:
        backend = moving.rollback(rag, collection)
    output.result(
        {"collection": collection, "backend": backend},
        lambda console: console.print(f"{collection} is served by {backend} again, and stays there."),
    )


@commands.command()
def cancel(context: typer.Context, collection: Collection, as_json: Json = False) -> None:
    """Stop a move that is under way. What it built is removed; the collection is served as before."""
    output = Output(as_json=as_json)
    with session(context).open(output) as rag:
        if not moving.cancel(rag, collection):
            raise Conflict(f"collection {collection!r} is not being moved")
        _cancel_where_nobody_works(rag, collection)
    output.result({"collection": collection, "cancelled": True}, lambda console: console.print("Cancelled."))


@commands.command()
def finish(context: typer.Context, collection: Collection, as_json: Json = False) -> None:
    """Drop the indexes that do not serve any more, instead of keeping them for a rollback."""
    output = Output(as_json=as_json)
    with session(context).open(output) as rag:
        dropped = [row.backend for row in indexes_of(rag.database, find_collection(rag.database, collection).id)][1:]
        left = moving.drop_old(rag, 0, collection)
        deadline_s = time.monotonic() + 2 * longest_query_s(rag)
        with output.waiting("Waiting for the longest query that may still use it ..."):
            while left and time.monotonic() < deadline_s:
                time.sleep(DROP_LOOK_S)
                left = moving.drop_old(rag, 0, collection)
    document: dict[str, object] = {"collection": collection, "dropped": dropped, "left": left}
    output.result(document, lambda console: console.print(_finished(dropped, left)))
    if left:
        raise typer.Exit(FINDING)


def _cancel_where_nobody_works(rag: Ragstone, collection: str) -> None:
    """Who works on the move sees that it is cancelled; where nobody does, this process cleans up."""
    move = moves.latest_moves(rag.database, find_collection(rag.database, collection).id)[0]
    try:
        moving.work_on(rag, move)
    except Conflict:
        return


def _standing(rag: Ragstone, name: str) -> tuple[Move | None, list[IndexRow]]:
    state = find_collection(rag.database, name)
    return next(iter(moves.latest_moves(rag.database, state.id)), None), indexes_of(rag.database, state.id)


def _left_s(move: Move) -> float | None:
    """Seconds left of the build, at the rate so far."""
    spent_s = (move.updated_at - move.started_at).total_seconds()
    if move.phase != "building" or not move.chunks_done or spent_s <= 0:
        return None
    return spent_s * (move.chunks_total - move.chunks_done) / move.chunks_done


def _move_json(move: Move) -> dict[str, Any]:
    found = asdict(move)
    for key in ("started_at", "updated_at", "finished_at"):
        found[key] = None if found[key] is None else found[key].isoformat()
    return found | {"left_s": _left_s(move)}


def _index_json(row: IndexRow) -> dict[str, Any]:
    return {
        "backend": row.backend,
        "serving": row.serving,
        "state": row.state,
        "applied": row.applied,
        "behind": None if row.applied is None else row.sequence - row.applied,
        "away_since": None if row.away_since is None else row.away_since.isoformat(),
        "away_reason": row.away_reason,
    }


def _finished(dropped: list[str], left: list[str]) -> str:
    if left:
        return f"Not dropped yet, the service goes on: {', '.join(left)}."
    return f"Dropped: {', '.join(dropped)}." if dropped else "There was nothing to drop."


def _show_plan(console: Console, found: moving.Plan) -> None:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_row("from", found.source)
    grid.add_row("to", found.target if found.target != found.source else f"{found.target}: it is there already")
    grid.add_row("why", found.reason)
    grid.add_row("chunks", f"{found.chunks:,} of dimension {found.dimension}")
    if found.target != found.source:
        grid.add_row("time", f"about {duration(found.duration_s)} ({found.chunks_per_s:,.0f} chunks/s)")
        grid.add_row("measured on", found.rate_source)
        grid.add_row("memory", f"about {_size(found.memory_bytes)} {found.where}")
        grid.add_row("disk", f"about {_size(found.disk_bytes)} {found.where}")
    console.print(grid)


def _show_status(console: Console, move: Move | None, rows: list[IndexRow]) -> None:
    if move is None:
        console.print("It was never moved.")
    else:
        _show_move(console, move)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in ("index", "state", "changes behind", "away"):
        table.add_column(column)
    for row in rows:
        behind = "in the corpus" if row.applied is None else str(row.sequence - row.applied)
        away = "" if row.away_since is None else f"since {row.away_since:%Y-%m-%d %H:%M:%S}: {row.away_reason}"
        table.add_row(row.backend, "serving" if row.serving else row.state, behind, printable(away))
    console.print(table)


def _show_move(console: Console, move: Move) -> None:
    line = f"{move.source} to {move.target}: {move.phase.replace('_', ' ')}"
    if move.active:
        line += f", {move.chunks_done:,} of {move.chunks_total:,} chunks"
        left_s = _left_s(move)
        line += "" if left_s is None else f", {duration(left_s)} left"
    console.print(line)
    if move.problem is not None:
        console.print(printable(move.problem))
    if move.verification is not None:
        found = move.verification
        recall = "too small for a recall" if found["recall"] is None else f"recall@10 {found['recall']:.3f}"
        console.print(
            f"verified: {found['indexed']:,} of {found['chunks']:,} chunks, {found['missing']} missing, "
            f"{found['foreign']} foreign, {recall} on {found['queries']} queries (target {found['recall_target']:g})"
        )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.1f} GiB" if size_bytes >= 1 << 30 else f"{size_bytes / (1 << 20):.0f} MiB"
