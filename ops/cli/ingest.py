"""`ragstone ingest`: files, folders and JSONL into a collection."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from backends.errors import CollectionNotFound, InvalidInput
from ops.cli.failures import FINDING
from ops.cli.options import Collection, Json
from ops.cli.session import session
from ops.ingesting import Ingested, measure, run_ingest
from ops.output import Output, printable
from ops.progress import duration
from retrieval import Collection as OpenCollection
from retrieval import Ragstone
from retrieval.checking import check_name
from retrieval.ingest import FileReport
from retrieval.parsing import SUFFIXES, FoundFiles, find_files

EXAMPLES = 5


def ingest(
    context: typer.Context,
    collection: Collection,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help=f"Files ({', '.join(SUFFIXES)}) and folders of them.")
    ],
    as_json: Json = False,
) -> None:
    """Read documents into a collection, which is made where it is missing.

    A .jsonl file holds one document a line: {"_id", "title", "text", "metadata"}. Safe to repeat: what is
    unchanged is not embedded again. Exit status 1 where something could not be read.
    """
    output = Output(as_json=as_json)
    check_name(collection)
    files = _files(paths)
    with session(context).open(output, creating=True) as rag:
        opened, created = _open_or_create(rag, collection, output)
        try:
            done = run_ingest(opened, measure(files), output)
        except KeyboardInterrupt:
            output.note("What was ingested is kept; the same command goes on from there.")
            raise
        with output.waiting("Building the vector index ..."):
            opened.wait_until_indexed()
    document = {"collection": collection, "created": created, **_json(done, files.left_out)}
    output.result(document, lambda console: _show(console, done, files.left_out))
    if done.report.failed_files or done.report.skipped:
        raise typer.Exit(FINDING)


def _files(paths: Sequence[Path]) -> FoundFiles:
    files = find_files(paths)
    if not files:
        raise InvalidInput("PATH", f"found no {', '.join(SUFFIXES)} in {', '.join(map(str, paths))}")
    return files


def _open_or_create(rag: Ragstone, name: str, output: Output) -> tuple[OpenCollection, bool]:
    try:
        return rag.collection(name), False
    except CollectionNotFound:
        with output.waiting("Loading the embedding model ..."):
            made = rag.create_collection(name)
        output.note(f"Created the collection {name}.")
        return made, True


def _json(done: Ingested, left_out: Sequence[Path]) -> dict[str, Any]:
    report = done.report
    return {
        "upserted": report.upserted,
        "unchanged": report.unchanged,
        "chunks": report.chunks,
        "skipped_empty": done.skipped_empty,
        "skipped": report.skipped,
        "skipped_examples": [asdict(example) for file in report.files for example in file.skipped_examples],
        "failed_files": [{"file": file.name, "problem": file.problem} for file in report.failed_files],
        "left_out": [str(path) for path in left_out],
        "duration_s": round(done.duration_s, 3),
        "chunks_per_s": round(done.chunks_per_s, 1),
    }


def _show(console: Console, done: Ingested, left_out: Sequence[Path]) -> None:
    report = done.report
    embedded = f" ({report.chunks:,} chunks, {done.chunks_per_s:,.0f} chunks/s)" if report.chunks else ""
    console.print(
        f"{report.upserted:,} documents upserted{embedded}, {report.unchanged:,} unchanged, "
        f"in {duration(done.duration_s)}.",
        soft_wrap=True,
    )
    if done.skipped_empty:
        console.print(f"{done.skipped_empty:,} documents without text were skipped.")
    if left_out:
        _show_some(console, f"{len(left_out):,} files were left out", [str(path) for path in left_out])
    for file in report.files:
        _show_problems(console, file)


def _show_problems(console: Console, file: FileReport) -> None:
    if file.problem is not None:
        console.print(f"{printable(file.problem)}", style="red", soft_wrap=True)
    if file.skipped:
        problems = [f"{example.document_id}: {example.problem}" for example in file.skipped_examples]
        _show_some(console, f"{file.name}: {file.skipped:,} documents were refused", problems)


def _show_some(console: Console, what: str, examples: Sequence[str]) -> None:
    """Print the first few, and that there are more."""
    console.print(f"{what}:", soft_wrap=True)
    for example in examples[:EXAMPLES]:
        console.print(f"  {printable(example)}", soft_wrap=True)
    if len(examples) > EXAMPLES:
        console.print(f"  and {len(examples) - EXAMPLES:,} more")
