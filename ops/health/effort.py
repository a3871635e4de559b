"""Whether an index searches hard enough for what is asked of it."""

from collections.abc import Iterator

from backends.corpus.health_indexes import usual_top_k
from backends.errors import Unsupported
from ops.health.check import Check, CheckFunction
from ops.health.looking import Look, of_each
from ops.recall.knobs import knob_of

USUAL_TOP_K = 10
"""What a search asks for that says nothing else."""


@of_each("pgvector", "faiss", "weaviate")
def index_effort(look: Look) -> Iterator[Check]:
    """Whether the least effort that searches take looks at as many rows as they usually ask for (top_k).

    Below it, an index is searched with top_k itself, the least that can return so many: recall is at its worst then.
    An index that compares every embedding has no effort, and Pinecone chooses its own.
    """
    asked = usual_top_k(look.subject.database, look.subject.state, look.row.backend) or USUAL_TOP_K
    tuned = look.subject.state.efforts.get(look.row.backend, {})
    rows = _rows_per_effort(look, asked, bool(tuned))
    if rows is None:
        return
    least, source = (
        min((effort, f"tuned for the band {band}") for band, effort in tuned.items())
        if tuned
        else (
            look.subject.rag.settings.ef_search,
            "the setting ef_search",
        )
    )
    yield look.says(
        "ok" if least * rows >= asked else "warn",
        value=float(least),
        threshold=f"at least {asked}, the usual top_k",
        detail=source if rows == 1 else f"{source}: lists, of {rows:,.0f} rows each",
        hint=f"raise RAGSTONE_EF_SEARCH, or `ragstone recall tune {look.state.name}`",
    )


def _rows_per_effort(look: Look, top_k: int, tuned: bool) -> float | None:
    """Return how many rows a search looks at for each unit of effort; None where there is no effort to speak of."""
    if look.row.backend != "faiss":
        return 1.0
    with look.as_searched() as attached:
        try:
            knob = knob_of(attached.index, top_k, look.state.chunks)
        except Unsupported:
            return None
    if knob.name == "ef_search":
        return 1.0
    return look.state.chunks / knob.most if tuned else None  # untuned, it follows from the lists


CHECKS: tuple[CheckFunction, ...] = (index_effort,)
