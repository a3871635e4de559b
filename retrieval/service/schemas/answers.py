"""Answers with their citations."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from retrieval.documents import Answer, Citation, Usage
from retrieval.service.schemas.base import Body, Filter, MaxTokens, Question, Result, TopK
from retrieval.service.schemas.costs import COST_EXAMPLE, CostResult, cost_json
from retrieval.service.schemas.search import HIT_EXAMPLE, HitResult, hit_json

CITATION_EXAMPLE: JsonDict = {
    "number": 1,
    "chunk_id": "leave",
    "document_id": "leave",
    "title": "Leave",
    "start": 0,
    "end": 37,
    "text": "Everyone has 30 days of leave a year.",
    "answer_spans": [{"start": 0, "end": 41}],
}
ANSWER_EXAMPLE: JsonDict = {
    "answer": "Everyone has 30 days of leave a year. [1]",
    "citations": [CITATION_EXAMPLE],
    "results": [HIT_EXAMPLE],
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0},
    "timings_ms": {"queue": 0.051, "embed": 8.412, "search": 1.207, "generate": 3.1},
    "model": "extractive",
    "refused": False,
    "finish_reason": "stop",
    "cost": COST_EXAMPLE,
    "warnings": [],
}


class GenerateBody(Body):
    """A question to answer from the documents."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "how much leave do I get?"}]})

    query: Question
    top_k: TopK = 5
    filter: Filter = None
    stream: bool = Field(False, description="Send the answer as it comes, as server-sent events.")
    max_tokens: MaxTokens = None


class AnswerSpanResult(Result):
    """A statement of the answer: a sentence, an item of a list or a row of a table, with the `[number]` behind it."""

    start: int = Field(description="Where it begins in the answer, in Unicode code points.")
    end: int = Field(description="Where it ends: the first character after it.")


class CitationResult(Result):
    """The source of a statement: `[number]` in the answer points at this span of this document.

    Characters are Unicode code points, as Python counts them; JavaScript counts those beyond U+FFFF twice.
    """

    number: int = Field(description="As it stands in the answer, in brackets.")
    chunk_id: str = Field(description="The passage: `id` of one of the results.")
    document_id: str = Field(description="The document.")
    title: str = Field(description="The document's title.")
    start: int = Field(description="Where the quoted text begins in the document's text, in characters.")
    end: int = Field(description="Where it ends.")
    text: str = Field(description="Exactly the characters `start` to `end` of the document's text.")
    answer_spans: list[AnswerSpanResult] = Field(description="The statements of the answer that rest on it, in order.")


class UsageResult(Result):
    """Tokens that the model read and wrote; 0 where no model was asked."""

    prompt_tokens: int = Field(description="Read.")
    completion_tokens: int = Field(description="Written.")
    cached_tokens: int = Field(description="Of those read, the ones that the model server still knew; 0 if untold.")


class AnswerResult(Result):
    """An answer, what it rests on, and what it took."""

    model_config = ConfigDict(json_schema_extra={"examples": [ANSWER_EXAMPLE]})

    answer: str = Field(description="The answer; numbers in brackets are its citations.")
    citations: list[CitationResult] = Field(description="Those that the answer makes.")
    results: list[HitResult] = Field(description="What was retrieved for it, best first.")
    usage: UsageResult
    timings_ms: dict[str, float] = Field(description="What each stage took.")
    model: str = Field(description="What wrote the answer; `extractive` quotes and needs no model.")
    refused: bool = Field(description="Whether nothing relevant was found, so that there is no answer.")
    finish_reason: str | None = Field(
        description="Why the answer ended, in the model server's word: `stop`, or `length` where it was cut off."
    )
    cost: CostResult | None = Field(description="By the prices that the operator set; null where there are none.")
    warnings: list[str] = Field(description="Budgets that are nearly used up.")


def citation_json(citation: Citation) -> dict[str, Any]:
    """Return a CitationResult as a dict."""
    return {
        "number": citation.number,
        "chunk_id": citation.chunk_id,
        "document_id": citation.document_id,
        "title": citation.title,
        "start": citation.start,
        "end": citation.end,
        "text": citation.text,
        "answer_spans": [{"start": span.start, "end": span.end} for span in citation.answer_spans],
    }


def annotations_json(citations: Iterable[Citation], collection: str) -> list[dict[str, Any]]:
    """Return citations as `chat.Annotation`s, in the order of the statements that they stand behind."""
    cited = [(span, citation) for citation in citations for span in citation.answer_spans]
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": span.start,
                "end_index": span.end,
                "url": _url(citation, collection),
                "title": citation.title or citation.document_id,
            },
        }
        for span, citation in sorted(cited, key=lambda one: one[0].start)
    ]


def _url(citation: Citation, collection: str) -> str:
    document = f"/v1/collections/{quote(collection)}/documents/{quote(citation.document_id)}"
    return f"{document}#char={citation.start},{citation.end}"


def answer_json(answer: Answer) -> dict[str, Any]:
    """Return an AnswerResult as a dict."""
    return {
        "answer": answer.text,
        "citations": [citation_json(citation) for citation in answer.citations],
        "results": [hit_json(hit) for hit in answer.hits],
        "usage": usage_json(answer.usage),
        "timings_ms": answer.timings_ms,
        "model": answer.model,
        "refused": answer.refused,
        "finish_reason": answer.finish_reason,
        "cost": cost_json(answer.cost),
        "warnings": answer.warnings,
    }


def usage_json(usage: Usage) -> dict[str, int]:
    """Return a UsageResult as a dict."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
    }
