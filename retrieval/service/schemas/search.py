"""Searches: by text and by embedding."""

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from retrieval.documents import Hit, Retrieval
from retrieval.service.schemas.base import METADATA_EXAMPLE, Body, Filter, Metadata, Question, Result, TopK
from retrieval.service.schemas.costs import CostResult, cost_json

HIT_EXAMPLE: JsonDict = {
    "id": "leave",
    "document_id": "leave",
    "title": "Leave",
    "score": 0.7129,
    "text": "Everyone has 30 days of leave a year.",
    "metadata": METADATA_EXAMPLE,
    "start": 0,
    "end": 37,
}
TIMINGS_EXAMPLE: JsonDict = {"queue": 0.051, "embed": 8.412, "search": 1.207}


class RetrieveBody(Body):
    """A question in words."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "how much leave do I get?", "top_k": 5, "filter": {"year": 2026}}]}
    )

    query: Question
    top_k: TopK = 10
    filter: Filter = None
    mode: Literal["dense", "keyword", "hybrid"] = Field(
        "dense", description="`dense` compares embeddings. `keyword` and `hybrid` are not built yet."
    )


class SearchBody(Body):
    """An embedding to compare with."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"embedding": [0.12, -0.5, 0.33], "top_k": 10}]})

    embedding: list[float] = Field(
        description="As long as the collection's dimension.", json_schema_extra={"minItems": 1}
    )
    top_k: TopK = 10
    filter: Filter = None
    exact: bool = Field(False, description="Compare with every embedding instead of asking the index.")


class HitResult(Result):
    """A passage that was found."""

    id: str = Field(description="The document's id where it has one passage, else `document_id#n`.")
    document_id: str = Field(description="Its document.")
    title: str = Field(description="The document's title.")
    score: float = Field(
        description="Higher is nearer: cosine similarity, inner product, or minus the Euclidean distance."
    )
    text: str = Field(description="The passage: characters `start` to `end` of the document's text.")
    metadata: Metadata
    start: int = Field(description="Where the passage begins, in characters.")
    end: int = Field(description="Where it ends.")


class IndexResult(Result):
    """What answered."""

    backend: str = Field(description="The vector index.", examples=["pgvector"])
    exact: bool = Field(description="Whether every embedding was compared.")


class SearchResult(Result):
    """What was found, best first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": [HIT_EXAMPLE],
                    "timings_ms": TIMINGS_EXAMPLE,
                    "index": {"backend": "pgvector", "exact": True},
                    "cost": None,
                    "warnings": [],
                }
            ]
        }
    )

    results: list[HitResult] = Field(description="Best first; equal scores in the order of their ids.")
    timings_ms: dict[str, float] = Field(description="What each stage took.")
    index: IndexResult
    cost: CostResult | None = Field(description="By the prices that the operator set; null where there are none.")
    warnings: list[str] = Field(description="Of budgets that are nearly used up.")


def hit_json(hit: Hit) -> dict[str, Any]:
    """Return a HitResult as a dict."""
    return {
        "id": hit.id,
        "document_id": hit.document_id,
        "title": hit.title,
        "score": hit.score,
        "text": hit.text,
        "metadata": hit.metadata,
        "start": hit.start,
        "end": hit.end,
    }


def retrieval_json(retrieval: Retrieval) -> dict[str, Any]:
    """Return a SearchResult as a dict."""
    return {
        "results": [hit_json(hit) for hit in retrieval.hits],
        "timings_ms": retrieval.timings_ms,
        "index": {"backend": retrieval.backend, "exact": retrieval.exact},
        "cost": cost_json(retrieval.cost),
        "warnings": retrieval.warnings,
    }
