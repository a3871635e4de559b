"""What a backend's effort is, and which values of it are worth trying: pure functions."""

import math
from dataclasses import dataclass

from backends.base import VectorIndex
from backends.errors import Unsupported
from backends.pgvector import MAX_EF_SEARCH
from backends.searching import candidates_for

STEP = math.sqrt(2)
MAX_FAISS_EF = 4_096
"""Beyond, comparing every embedding is about as quick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """An effort by the name that the backend gives it, from the least that makes a difference to the most."""

    name: str
    least: int
    most: int

    def ladder(self) -> list[int]:
        """Return the efforts to try, ascending, each about 1.4 times the one before; the last is the most."""
        steps = []
        value = float(self.least)
        while value < self.most:
            steps.append(round(value))
            value = max(value * STEP, round(value) + 1)
        return [*steps, self.most]


def knob_of(index: VectorIndex, top_k: int, chunks: int) -> Knob:
    """Return the effort of an index that is asked for `top_k`; raises Unsupported where it has none."""
    name = index.name
    if name == "pgvector":
        return Knob(name="ef_search", least=min(top_k, MAX_EF_SEARCH), most=MAX_EF_SEARCH)
    if name == "faiss":
        return _of_faiss(index, top_k, chunks)
    why = {
        "weaviate": "Weaviate takes none with a query: its class has ef, which the setting ef_search sets at a build",
        "pinecone": "Pinecone chooses it itself",
    }.get(name, "it compares every embedding")
    raise Unsupported(f"{name} has no effort that can be tuned: {why}")


def _of_faiss(index: VectorIndex, top_k: int, chunks: int) -> Knob:
    """Candidates beyond top_k are asked for, and HNSW looks at as many as are asked for at least."""
    kind = str(index.stats().details.get("kind"))
    if "ivf" in kind:
        from backends.faiss.kinds import lists_of

        return Knob(name="nprobe", least=1, most=lists_of(chunks))
    if "hnsw" in kind or "cagra" in kind:
        least = candidates_for(top_k, rough=index.is_rough)
        return Knob(name="ef_search", least=least, most=max(MAX_FAISS_EF, least))
    raise Unsupported(f"faiss has no effort that can be tuned: an index of kind {kind} compares every embedding")
