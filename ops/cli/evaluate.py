"""`ragstone eval`: how good is retrieval, by judgements."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ops.cli.options import Collection, Json, Mode, ModeOption, require_built
from ops.cli.session import session
from ops.evals import DOCUMENTS_PER_QUERY, Evaluation, evaluate
from ops.judgements import read_judgements, read_queries
from ops.output import Output


def evaluate_collection(
    context: typer.Context,
    collection: Collection,
    queries: Annotated[Path, typer.Option("--queries", metavar="JSONL", help='Lines of {"_id": ..., "text": ...}.')],
    qrels: Annotated[
        Path, typer.Option("--qrels", metavar="TSV", help="Query, document, grade; or TREC's four columns.")
    ],
    mode: ModeOption = Mode.DENSE,
    per_query: Annotated[bool, typer.Option("--per-query", help="Show each query's measures too.")] = False,
    as_json: Json = False,
) -> None:
    """Measure retrieval against relevance judgements, counted as trec_eval does.

    Chunks are collapsed to documents by their best score, until there are 100 distinct documents.
    """
    output = Output(as_json=as_json)
    require_built(mode)
    texts, judgements = read_queries(queries), read_judgements(qrels)
    with session(context).open(output) as rag, Progress(console=output.notes, transient=True) as bar:
        found = rag.collection(collection)
        task = bar.add_task("Queries", total=None, start=False)
        evaluation = evaluate(
            lambda text, top_k: found.retrieve(text, top_k=top_k, mode=mode.value),
            texts,
            judgements,
            max_top_k=rag.settings.max_top_k,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _warn(output, evaluation)
    document: dict[str, object] = {"collection": collection, "mode": mode.value, "queries": evaluation.queries}
    document |= evaluation.means
    document |= {"without_text": evaluation.without_text, "cut_short": evaluation.cut_short}
    if per_query:
        document["per_query"] = evaluation.per_query
    output.result(document, lambda console: _show(console, evaluation, per_query))


def _warn(output: Output, evaluation: Evaluation) -> None:
    """Say what makes the numbers mean less than they seem to."""
    if evaluation.without_text:
        output.note(f"{evaluation.without_text} judged queries are not in the query file: they are in no mean.")
    if evaluation.cut_short:
        output.note(
            f"{evaluation.cut_short} queries found fewer than {DOCUMENTS_PER_QUERY} documents in as many "
            "chunks as may be asked for: their recall@100 may be too low. RAGSTONE_MAX_TOP_K raises that."
        )
    if not evaluation.means["recall@100"]:
        output.note("No judged document was found at all: do the qrels name this collection's document ids?")


def _show(console: Console, evaluation: Evaluation, per_query: bool) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("query", overflow="fold")
    for name in evaluation.means:
        table.add_column(name, justify="right", no_wrap=True)
    rows = evaluation.per_query.items() if per_query else ()
    for query_id, measures in rows:
        table.add_row(query_id, *(f"{value:.4f}" for value in measures.values()))
    mean = [f"{value:.4f}" for value in evaluation.means.values()]
    table.add_row(f"mean of {evaluation.queries}", *mean, style="bold")
    console.print(table)
