"""Collections."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from retrieval.checking import MAX_CHUNKS
from retrieval.collection import CollectionInfo
from retrieval.generation.templates import MAX_TEMPLATE_CHARACTERS, PromptTemplate
from retrieval.service.schemas.base import Body, CollectionName, Result

_EXAMPLE: JsonDict = {
    "name": "handbook",
    "dimension": 384,
    "metric": "cosine",
    "precision": "half",
    "embedding_model": "all-MiniLM-L6-v2",
    "documents": 112,
    "chunks": 1480,
    "sequence": 7,
    "backend": "pgvector",
    "indexed": False,
    "created_at": "2026-11-23T09:30:00.000000+00:00",
    "placement_threshold": None,
    "recall_target": None,
    "pinned_backend": None,
    "prompt": None,
}
_PROMPT_EXAMPLE: JsonDict = {
    "system": "Answer from the numbered passages alone, in one sentence, and name them as [1].",
    "user": "{passages}\nQuestion of a colleague: {question}",
}


class PromptBody(Body):
    """How a model is asked. That passages are data, and never instructions, is added to `system`."""

    model_config = ConfigDict(json_schema_extra={"examples": [_PROMPT_EXAMPLE]})

    system: str = Field(description="The instructions.", json_schema_extra={"maxLength": MAX_TEMPLATE_CHARACTERS})
    user: str = Field(
        description="The last message, with `{passages}` and `{question}` in it, each once; other braces are text.",
        json_schema_extra={"maxLength": MAX_TEMPLATE_CHARACTERS},
    )

    def template(self) -> PromptTemplate:
        """Return it checked; raises InvalidInput."""
        return PromptTemplate(system=self.system, user=self.user)


class PromptResult(Result):
    """How a model is asked, as it was given."""

    system: str = Field(description="The instructions.")
    user: str = Field(description="The last message, with places for `{passages}` and `{question}`.")


PlacementThreshold = Annotated[
    int | None,
    Field(
        ge=1,
        le=MAX_CHUNKS,
        description="Passages above which it leaves pgvector; the service's own number where none is given.",
    ),
]

RecallTarget = Annotated[
    float | None,
    Field(ge=0, le=1, description="Recall@10 that its index must show; the service's where none is given."),
]


class NewCollection(Body):
    """A collection to create: for texts (leave `dimension` out), or with `dimension` for your own embeddings."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "handbook"}]})

    name: CollectionName
    embedding_model: str | None = Field(
        None,
        description="The model that embeds the texts: the service's own, which is also taken where none is named.",
        examples=["all-MiniLM-L6-v2"],
    )
    dimension: int | None = Field(
        None,
        description="The length of your own embeddings: up to 4,000 in half precision, 2,000 in single.",
        examples=[784],
        json_schema_extra={"minimum": 1, "maximum": 4_000},
    )
    metric: Literal["cosine", "inner_product", "l2"] = Field(
        "cosine", description="How two embeddings are compared. A `score` is higher for nearer with each of them."
    )
    precision: Literal["half", "single"] = Field(
        "half",
        description="`half` keeps 11 significant bits of each number in half the space: a cosine is off by less than "
        "0.001. `single` keeps float32.",
    )
    placement_threshold: PlacementThreshold = None
    recall_target: RecallTarget = None
    prompt: PromptBody | None = Field(None, description="How a model is asked; the default where none is given.")


class CollectionChanges(Body):
    """What a collection is to have of its own. Null goes back to the service's own; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": _PROMPT_EXAMPLE}, {"recall_target": None}]})

    placement_threshold: PlacementThreshold = None
    recall_target: RecallTarget = None
    prompt: PromptBody | None = Field(None, description="How a model is asked; null for the default.")

    def given(self) -> dict[str, Any]:
        """Return what stands in the body, as `Collection.configure` takes it; raises InvalidInput."""
        given: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        if self.prompt is not None:
            given["prompt"] = self.prompt.template()
        return given


class CollectionResult(Result):
    """How a collection stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: CollectionName
    dimension: int = Field(description="The length of its embeddings.")
    metric: Literal["cosine", "inner_product", "l2"] = Field(description="How two embeddings are compared.")
    precision: Literal["half", "single"] = Field(description="How exactly embeddings are kept.")
    embedding_model: str | None = Field(description="What embeds its texts; null where you bring your own embeddings.")
    documents: int = Field(description="Documents in it.")
    chunks: int = Field(description="Passages that its documents were cut into.")
    sequence: int = Field(description="The number of its last change: every write takes the next one.")
    backend: str = Field(description="The vector index that serves it.")
    indexed: bool = Field(description="Whether the index is built, and not away. Small collections need none.")
    created_at: datetime = Field(description="When it was created.")
    placement_threshold: int | None = Field(description="Passages above which it leaves pgvector, if it has its own.")
    recall_target: float | None = Field(description="Recall@10 that its index must show, if it has its own.")
    pinned_backend: str | None = Field(description="Where somebody put it by hand; null where its size decides.")
    prompt: PromptResult | None = Field(description="How a model is asked, if it has its own.")


class CollectionList(Result):
    """All collections, by name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"collections": [_EXAMPLE]}]})

    collections: list[CollectionResult] = Field(description="In the order of their names.")


def collection_json(info: CollectionInfo) -> dict[str, Any]:
    """Return a CollectionResult as a dict."""
    return asdict(info)
