"""What goes in and what comes out: documents, hits, citations, answers."""

from dataclasses import dataclass, field

from backends.hits import Hit as Hit
from backends.hits import Metadata as Metadata
from retrieval.costing import NO_COST, Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One of the user's documents. `start` and `end` of its hits count characters in `text`."""

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A passage of a document before it is kept: characters `start` to `end` of the document's text."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsertResult:
    """What an upsert did: documents written, documents that were the same already, chunks written."""

    upserted: int
    unchanged: int
    chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSpan:
    """Characters `start` to `end`, half-open, of an answer's text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """The source of a statement: `[number]` in the answer points at this span of this document.

    `text` is exactly characters `start` to `end` of the document's text. `answer_spans` are the statements of the
    answer that rest on it, in order: each a sentence, an item of a list or a row of a table, with its `[number]`.
    """

    number: int
    chunk_id: str
    document_id: str
    title: str
    start: int
    end: int
    text: str
    answer_spans: list[AnswerSpan] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that the generator read and wrote; 0 where no model was asked.

    `cached_tokens` are those of the prompt that the server had read before, where it tells.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """The hits of one query, the milliseconds each stage took, what answered it, and what it cost.

    `warnings` are those of budgets that are nearly used up.
    """

    hits: list[Hit]
    timings_ms: dict[str, float]
    backend: str
    exact: bool
    cost: Cost = NO_COST
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A generated answer with the citations it makes, the hits it was given, what it took and what it cost.

    `finish_reason` is the model server's word for why it ended: "stop", or "length" where `max_tokens` or the model's
    window cut it off. `warnings` are those of budgets that are nearly used up.
    """

    text: str
    citations: list[Citation]
    hits: list[Hit]
    usage: Usage
    timings_ms: dict[str, float]
    model: str
    refused: bool = False
    finish_reason: str | None = None
    cost: Cost = NO_COST
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class HitsEvent:
    """The first event of a stream: what was retrieved."""

    hits: list[Hit]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEvent:
    """A piece of the answer, in order."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerEvent:
    """The last event of a stream: the whole answer."""

    answer: Answer


Event = HitsEvent | TextEvent | AnswerEvent
