"""`ragstone retrieve` and `ragstone ask`."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ops import costs
from ops.cli.options import Collection, FilterText, Json, Mode, ModeOption, read_filter, require_built
from ops.cli.session import session
from ops.output import Output, milliseconds, printable, snippet
from retrieval.documents import Answer, Citation, Hit, Retrieval

QUOTED_CHARACTERS = 400

TopK = Annotated[int, typer.Option("--top-k", metavar="N", min=1, help="The most passages to find.")]


def retrieve(
    context: typer.Context,
    collection: Collection,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for, in your words.")],
    top_k: TopK = 10,
    filter_: FilterText = None,
    mode: ModeOption = Mode.DENSE,
    as_json: Json = False,
) -> None:
    """Find the passages nearest to a query."""
    output = Output(as_json=as_json)
    require_built(mode)
    wanted = read_filter(filter_)
    with session(context).open(output) as rag, costs.running(rag), output.waiting("Searching ..."):
        found = rag.collection(collection).retrieve_with_timings(query, top_k, wanted, mode.value)
    _warn(output, found.warnings)
    output.result(_retrieval_json(found), lambda console: _show_retrieval(console, found))


def ask(
    context: typer.Context,
    collection: Collection,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question to answer.")],
    top_k: TopK = 5,
    filter_: FilterText = None,
    as_json: Json = False,
) -> None:
    """Answer a question from the collection's passages, with citations."""
    output = Output(as_json=as_json)
    wanted = read_filter(filter_)
    with session(context).open(output) as rag, costs.running(rag), output.waiting("Looking for an answer ..."):
        answer = rag.collection(collection).generate(question, top_k=top_k, filter=wanted)
    _warn(output, answer.warnings)
    output.result(_answer_json(answer), lambda console: show_answer(console, answer))


def show_answer(console: Console, answer: Answer) -> None:
    """Print an answer, then what it cites, then the time of each stage."""
    console.print(Text(printable(answer.text)))
    console.print()
    for citation in answer.citations:
        console.print(_source(citation))
        console.print(_quotation(citation))
    console.print(milliseconds(answer.timings_ms))


def _show_retrieval(console: Console, found: Retrieval) -> None:
    console.print(_hits_table(found.hits) if found.hits else Text("Nothing matches."))
    how = "exactly" if found.exact else "with its index"
    console.print(milliseconds(found.timings_ms), Text(f"(by {found.backend}, {how})", style="dim"))


def _hits_table(hits: Iterable[Hit]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("document and passage", overflow="fold")
    for rank, hit in enumerate(hits, start=1):
        passage = Text.assemble((printable(hit.id), "bold"), "\n", snippet(hit.text))
        table.add_row(str(rank), f"{hit.score:.4f}", passage)
    return table


def _source(citation: Citation) -> Text:
    document = f"[{citation.number}] {printable(citation.document_id)}"
    title = f"  {printable(citation.title)}" if citation.title else ""
    return Text.assemble((document, "bold"), f", characters {citation.start} to {citation.end}", (title, "dim"))


def _quotation(citation: Citation) -> Padding:
    return Padding(snippet(citation.text, QUOTED_CHARACTERS), (0, 0, 0, 4), style="italic", expand=False)


def _warn(output: Output, warnings: Iterable[str]) -> None:
    for warning in warnings:
        output.note(f"Warning: {printable(warning)}")


def _retrieval_json(found: Retrieval) -> dict[str, Any]:
    return {
        "results": [asdict(hit) for hit in found.hits],
        "timings_ms": found.timings_ms,
        "cost": found.cost.as_dict(),
        "warnings": found.warnings,
        "index": {"backend": found.backend, "exact": found.exact},
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "citations": [asdict(citation) for citation in answer.citations],
        "results": [asdict(hit) for hit in answer.hits],
        "usage": asdict(answer.usage),
        "timings_ms": answer.timings_ms,
        "cost": answer.cost.as_dict(),
        "warnings": answer.warnings,
        "model": answer.model,
        "refused": answer.refused,
    }
