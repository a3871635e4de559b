"""`ragstone collections`: what there is, and making, changing and deleting it."""

import sys
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backends.errors import InvalidInput
from ops.cli.failures import FINDING
from ops.cli.options import Collection, Json
from ops.cli.session import session
from ops.output import Output, printable
from retrieval import CollectionInfo
from retrieval.generation.templates import PromptTemplate
from retrieval.settings_files import read_settings_file, table

TEMPLATE_KEYS = ("system", "user")

commands = typer.Typer(no_args_is_help=True, help="List, show, create, configure and delete collections.")


class Metric(StrEnum):
    """How near two embeddings are."""

    COSINE = "cosine"
    INNER_PRODUCT = "inner_product"
    L2 = "l2"


class Precision(StrEnum):
    """How embeddings are stored: 2 or 4 bytes a dimension."""

    HALF = "half"
    SINGLE = "single"


@commands.command("list")
def list_collections(context: typer.Context, as_json: Json = False) -> None:
    """List the collections."""
    output = Output(as_json=as_json)
    with session(context).open(output) as rag:
        found = [rag.collection(name).info() for name in rag.collections()]
    output.result({"collections": [_info_json(info) for info in found]}, lambda console: _show_list(console, found))


@commands.command()
def show(context: typer.Context, collection: Collection, as_json: Json = False) -> None:
    """Show what a collection is and how much is in it."""
    output = Output(as_json=as_json)
    with session(context).open(output) as rag:
        info = rag.collection(collection).info()
    output.result(_info_json(info), lambda console: _show_one(console, info))


@commands.command()
def create(
    context: typer.Context,
    collection: Collection,
    embedding_model: Annotated[
        str | None,
        typer.Option("--embedding-model", metavar="MODEL", help="Embeds its texts; default: the service's own."),
    ] = None,
    dimension: Annotated[
        int | None,
        typer.Option("--dimension", metavar="N", min=1, help="For embeddings of your own, in place of a model."),
    ] = None,
    metric: Annotated[Metric, typer.Option("--metric")] = Metric.COSINE,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Half keeps about three digits of each value.")
    ] = Precision.HALF,
    placement_threshold: Annotated[
        int | None,
        typer.Option("--placement-threshold", metavar="N", min=1, help="Chunks above which it leaves pgvector."),
    ] = None,
    recall_target: Annotated[
        float | None,
        typer.Option("--recall-target", metavar="R", min=0, max=1, help="Recall@10 that its index must show."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create an empty collection. `ragstone ingest` does it by itself."""
    output = Output(as_json=as_json)
    with session(context).open(output, creating=True) as rag:
        made = rag.create_collection(
            collection,
            embedding_model=embedding_model,
            dimension=dimension,
            metric=metric.value,
            precision=precision.value,
            placement_threshold=placement_threshold,
            recall_target=recall_target,
        )
        info = made.info()
    output.result(_info_json(info), lambda console: _show_one(console, info))


@commands.command()
def configure(
    context: typer.Context,
    collection: Collection,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="FILE", help="How a model is asked: TOML or .json with system and user."),
    ] = None,
    prompt_default: Annotated[
        bool, typer.Option("--prompt-default", help="Ask the model as other collections do.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Give a collection a prompt of its own. Its user text holds {passages} and {question}, each once."""
    output = Output(as_json=as_json)
    if (prompt is not None) == prompt_default:
        raise InvalidInput("--prompt", "found both or neither of --prompt and --prompt-default; needed one of the two")
    template = None if prompt is None else _read_template(prompt)
    with session(context).open(output) as rag:
        opened = rag.collection(collection)
        opened.configure(prompt=template)
        info = opened.info()
    output.result(_info_json(info), lambda console: _show_one(console, info))


@commands.command()
def delete(
    context: typer.Context,
    collection: Collection,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a collection with all its documents. This cannot be undone."""
    output = Output(as_json=as_json)
    if not yes and not sys.stdin.isatty():
        raise InvalidInput("--yes", "there is no terminal to ask on; give --yes to delete without asking")
    with session(context).open(output) as rag:
        documents = rag.collection(collection).count()
        if not yes and not _agreed(collection, documents):
            kept = {"deleted": None, "documents": documents}
            output.result(kept, lambda console: console.print("Nothing was deleted."))
            raise typer.Exit(FINDING)
        rag.delete_collection(collection)
    output.result(
        {"deleted": collection, "documents": documents},
        lambda console: console.print(f"Deleted {collection} with {documents:,} documents."),
    )


def _read_template(path: str) -> PromptTemplate:
    found = table(read_settings_file("--prompt", path), "prompt", TEMPLATE_KEYS)
    for key in TEMPLATE_KEYS:
        if key not in found:
            raise InvalidInput(f"prompt.{key}", "found none; it is needed")
    return PromptTemplate(**found)


def _agreed(collection: str, documents: int) -> bool:
    question = f"Delete {collection} with {documents:,} documents? This cannot be undone."
    return typer.confirm(question, default=False, err=True)


def _info_json(info: CollectionInfo) -> dict[str, Any]:
    return {**asdict(info), "created_at": info.created_at.isoformat()}


def _show_list(console: Console, found: list[CollectionInfo]) -> None:
    if not found:
        console.print("There are no collections yet. `ragstone ingest NAME PATH...` makes one.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("collection", overflow="fold")
    for column in ("documents", "chunks", "dimension"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("backend", no_wrap=True)
    table.add_column("model", overflow="fold")
    for info in found:
        model = info.embedding_model or "your own embeddings"
        sizes = f"{info.documents:,}", f"{info.chunks:,}", str(info.dimension)
        table.add_row(info.name, *sizes, info.backend, printable(model))
    console.print(table)


def _show_one(console: Console, info: CollectionInfo) -> None:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    values = _info_json(info)
    prompt = values.pop("prompt") or {"": "the default"}
    values |= {f"prompt {name}".strip(): text for name, text in prompt.items()}
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        grid.add_row(name.replace("_", " "), printable(_words(shown)))
    console.print(grid)


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
