"""Problem documents, and how operations say which of them they answer with."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from retrieval.service.failures import problem

PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}

_EXAMPLES: dict[int, tuple[str, str, dict[str, object]]] = {
    400: (
        "malformed_body",
        "body: not valid JSON (EOF while parsing a value at line 1 column 9); needed JSON in UTF-8",
        {},
    ),
    404: ("collection_not_found", "there is no collection 'handbok'; create it first", {}),
    409: ("collection_exists", "collection 'handbook' exists already; delete it first, or choose another name", {}),
    413: (
        "too_large",
        "body: found 73400320 bytes; needed at most 33554432 bytes: send fewer documents or files at once",
        {},
    ),
    415: ("unsupported_media_type", "Content-Type: found text/plain; needed application/json", {}),
    422: ("invalid_input", "top_k: found 0; needed a whole number from 1 to 1000", {"field": "top_k"}),
    429: ("queue_full", "4096 texts wait for the embedding model; try again in a moment", {"retry_after_s": 1.0}),
    501: ("not_built_yet", "mode 'hybrid' is not built yet; use mode 'dense'", {}),
    503: ("corpus_unavailable", "PostgreSQL cannot be reached: connection refused", {}),
}
_MEANINGS = {
    400: "The body is not JSON, or not multipart.",
    404: "What the path names is not there.",
    409: "It does not fit what is there already.",
    413: "The body is over the limit.",
    415: "The body is of another kind.",
    422: "Something in the request is wrong: `field` names it, `detail` says what is needed. Nothing was changed.",
    429: "Too much is going on: try again after `Retry-After` seconds.",
    501: "Not built yet.",
    503: "Something that the service needs cannot be reached, or a filter is too expensive to answer in time.",
}


class Problem(BaseModel):
    """Why a request was not answered, as RFC 9457 has it. `code` is stable; the text is for people."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A URI made of the code.", examples=["urn:problem-type:ragstone:invalid_input"])
    title: str = Field(description="The code in words.", examples=["Invalid input"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="What was found, and what is needed.")
    code: str = Field(description="Stable: programs may rely on it.", examples=["invalid_input"])
    field: str | None = Field(
        None, description="Which part of the request to mend.", examples=["top_k", "documents[3].text"]
    )


def answers_with(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's responses for problems of these statuses."""
    return {status: _response(status) for status in statuses}


def _response(status: int) -> dict[str, Any]:
    code, detail, more = _EXAMPLES[status]
    example = problem(status, code, detail, **more)
    return {
        "description": _MEANINGS[status],
        "content": {"application/problem+json": {"schema": PROBLEM_REF, "example": example}},
    }
