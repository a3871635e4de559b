"""`ragstone backup`: making backups, proving that they can be restored, restoring them, and dropping old ones."""

import time
from datetime import UTC, date, datetime
from datetime import time as clock
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backends.corpus.backups import BackupRun, record_run
from backends.errors import InvalidInput, NotFound, RagstoneError
from ops import backup
from ops.backup.addresses import address
from ops.backup.showing import showing
from ops.cli import backup_output as shown
from ops.cli.failures import FINDING
from ops.cli.options import Json
from ops.cli.session import Session, is_url, session
from ops.output import Output

if TYPE_CHECKING:
    from ops.backup import Verification

commands = typer.Typer(no_args_is_help=True, help="Back up, verify and restore.")


class Depth(StrEnum):
    """How much of a backup is read again to verify it."""

    SIZES = "sizes"
    HASHES = "hashes"
    DRILL = "drill"


Repo = Annotated[
    str,
    typer.Option(
        "--repo",
        metavar="URL",
        envvar="RAGSTONE_BACKUP_REPO",
        help="Where backups are kept: a folder, s3://bucket/prefix or gs://bucket/prefix.",
    ),
]
BackupId = Annotated[
    str | None, typer.Argument(metavar="BACKUP", help="A backup's id; default: the newest.", show_default=False)
]
Collections = Annotated[
    list[str] | None,
    typer.Option("--collection", metavar="NAME", help="Only this one; may be given again. Default: all."),
]
Jobs = Annotated[int, typer.Option("--jobs", metavar="N", min=1, help="Pieces that are worked on at once.")]


@commands.command()
def create(
    context: typer.Context,
    repo: Repo,
    incremental: Annotated[
        bool,
        typer.Option("--incremental", help="Write only what changed; what has no backup there yet is written whole."),
    ] = False,
    collection: Collections = None,
    jobs: Jobs = 2,
    as_json: Json = False,
) -> None:
    """Back up the corpus as it is at one instant, while it is read and written.

    Its outcome is kept in the corpus, and is on /metrics of `ragstone serve`. A backup that is interrupted is never
    listed as one.
    """
    output = Output(as_json=as_json)
    with session(context).open(output) as rag, showing(output, "taking a snapshot") as watch:
        made = backup.create(rag, repo, incremental=incremental, collections=collection, jobs=jobs, watch=watch)
    output.result(shown.made_json(made), lambda console: shown.show_made(console, made))


@commands.command("list")
def list_backups(context: typer.Context, repo: Repo, as_json: Json = False) -> None:
    """List the backups, oldest first, and when each was last verified.

    Exit status 1 where one is damaged, or where the last verification of one failed. An unfinished backup is shown
    and is no finding: it may be under way, and else the next `create` removes it.
    """
    output = Output(as_json=as_json)
    with output.waiting("Reading the manifests ..."):
        found = backup.list_backups(repo, key=_key(session(context)))
    output.result(shown.listing_json(found), lambda console: shown.show_listing(console, found))
    if shown.has_finding(found):
        raise typer.Exit(FINDING)


@commands.command()
def verify(
    context: typer.Context,
    repo: Repo,
    backup_id: BackupId = None,
    depth: Annotated[
        Depth,
        typer.Option("--depth", help="That every file is there; that each is what was written; a restore on trial."),
    ] = Depth.HASHES,
    as_json: Json = False,
) -> None:
    """Prove that a backup, with all that it builds on, can be restored.

    `sizes` looks for every file and its size. `hashes` also reads them all: hashes, row counts, ids. `drill` also
    restores them into a scratch corpus and searches there. Exit status 1 where something is wrong.
    """
    output = Output(as_json=as_json)
    here = session(context)
    began_s = time.monotonic()
    try:
        with showing(output, "reading the manifests") as watch:
            found = backup.verify(
                repo, backup_id, depth=depth.value, key=_key(here), watch=watch, settings=here.settings()
            )
    except RagstoneError as error:
        if not isinstance(error, InvalidInput) and not (backup_id and isinstance(error, NotFound)):
            _record(here, output, _ended_by(error, repo, backup_id, depth, time.monotonic() - began_s))
        raise
    _record(here, output, _ended(found, repo))
    output.result(shown.verification_json(found), lambda console: shown.show_verification(console, found))
    if not found.ok:
        raise typer.Exit(FINDING)


@commands.command()
def restore(
    context: typer.Context,
    repo: Repo,
    backup_id: BackupId = None,
    collection: Collections = None,
    as_name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Restore the one collection under this name.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="Restore the newest backup up to this time, in ISO 8601: without a zone it is UTC, and a date alone "
            "is its end.",
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="NAME", help="pgvector, faiss, weaviate or pinecone; default: by its size."),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option("--replace", metavar="NAME", help="Take the place of this collection; may be given again."),
    ] = None,
    jobs: Jobs = 2,
    as_json: Json = False,
) -> None:
    """Restore collections, into any backend. A collection that is there is left alone unless --replace names it.

    Everything is checked against the manifest on the way in, and nothing is seen before all of it is there. After
    an interruption the same command goes on from where it was.
    """
    output = Output(as_json=as_json)
    until = None if at is None else read_time(at)
    with session(context).open(output, creating=True) as rag, showing(output, "reading the manifests") as watch:
        restored = backup.restore(
            rag,
            repo,
            backup_id,
            collections=collection,
            as_name=as_name,
            at=until,
            backend=backend,
            replace=replace or (),
            jobs=jobs,
            watch=watch,
        )
    output.result(shown.restored_json(restored), lambda console: shown.show_restored(console, restored))


@commands.command()
def prune(
    context: typer.Context,
    repo: Repo,
    keep_last: Annotated[int, typer.Option("--keep-last", metavar="N", min=1, help="How many of the newest to keep.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Delete old backups. What a kept one builds on stays, and so does the only one that was proven good.

    Of unfinished ones, those that are older than a day go. Exit status 1 where one is damaged: it stays, with all
    that it may build on, until you remove its folder.
    """
    output = Output(as_json=as_json)
    with output.waiting("Reading the manifests ..." if dry_run else "Deleting old backups ..."):
        pruned = backup.prune(repo, keep_last=keep_last, dry_run=dry_run, key=_key(session(context)))
    output.result(
        shown.pruned_json(pruned, dry_run=dry_run), lambda console: shown.show_pruned(console, pruned, dry_run=dry_run)
    )
    if pruned.damaged:
        raise typer.Exit(FINDING)


def read_time(text: str) -> datetime:
    """Read a time in ISO 8601: without a zone it is UTC, a date alone is the end of that day. Raises InvalidInput."""
    try:
        try:
            return datetime.combine(date.fromisoformat(text), clock.max, UTC)
        except ValueError:
            found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            "--at", f"found {text!r}; needed a date or a time in ISO 8601, for example 2026-11-25 or 2026-11-25T14:30Z"
        ) from error


def _key(here: Session) -> str | None:
    secret = here.settings().backup_key
    return None if secret is None else secret.get_secret_value()


def _ended(found: "Verification", repo: str) -> BackupRun:
    return BackupRun(
        kind="verify",
        repository=address(repo),
        backup_id=found.backup_id,
        depth=found.depth,
        ok=found.ok,
        problem=None if found.ok else ": ".join(found.problems[0]),
        chunks=found.chunks,
        size_bytes=found.size_bytes,
        duration_s=found.duration_s,
    )


def _ended_by(error: RagstoneError, repo: str, backup_id: str | None, depth: Depth, duration_s: float) -> BackupRun:
    return BackupRun(
        kind="verify",
        repository=address(repo),
        backup_id=backup_id,
        depth=depth.value,
        ok=False,
        problem=str(error),
        chunks=0,
        size_bytes=0,
        duration_s=duration_s,
    )


def _record(here: Session, output: Output, run: BackupRun) -> None:
    """Write down in the corpus how a verification ended; where the repository is all there is, say that it is not."""
    data = here.settings().data
    if not is_url(data) and not Path(data).expanduser().exists():
        output.note(f"The outcome is not on /metrics: there is no corpus in {data} to keep it; name one with --data.")
        return
    try:
        with here.open(output) as rag:
            record_run(rag.database, run)
    except RagstoneError as error:
        output.note(f"The outcome is not on /metrics, since the corpus could not keep it: {error}")
