"""Documents."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from retrieval.checking import MAX_TITLE_CHARACTERS
from retrieval.collection import MAX_PAGE
from retrieval.documents import Document
from retrieval.service.schemas.base import FILTER_EXAMPLE, METADATA_EXAMPLE, Body, Filter, Metadata, Result

_DOCUMENT: JsonDict = {
    "id": "leave",
    "title": "Leave",
    "text": "Everyone has 30 days of leave a year.",
    "metadata": METADATA_EXAMPLE,
}


class DocumentBody(Body):
    """A document to upsert."""

    id: str = Field(
        description="Yours; up to 1,024 bytes. A document of the same id is replaced.",
        examples=["leave"],
        json_schema_extra={"minLength": 1},
    )
    title: str = Field(
        "",
        description="Embedded with each passage, and shown with hits.",
        examples=["Leave"],
        json_schema_extra={"maxLength": MAX_TITLE_CHARACTERS},
    )
    text: str = Field(
        description="What is searched. Cut into passages along its headings, paragraphs and sentences.",
        examples=["Everyone has 30 days of leave a year."],
        json_schema_extra={"minLength": 1},
    )
    metadata: Metadata = Field(default_factory=dict)


class UpsertBody(Body):
    """Documents to upsert, all in one transaction."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"documents": [_DOCUMENT]}]})

    documents: list[DocumentBody] = Field(description="Each id once.")


class UpsertResult(Result):
    """What an upsert did."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"upserted": 1, "unchanged": 0, "chunks": 1}]})

    upserted: int = Field(description="Documents written.")
    unchanged: int = Field(description="Documents that were there already as they are: neither embedded nor written.")
    chunks: int = Field(description="Passages written.")


class DocumentResult(Result):
    """A document, as it was given."""

    model_config = ConfigDict(json_schema_extra={"examples": [_DOCUMENT]})

    id: str = Field(description="Its id.")
    title: str = Field(description="Its title, empty where it has none.")
    text: str = Field(description="Its text.")
    metadata: Metadata


class DocumentPage(Result):
    """Documents in bytewise order of their ids."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"documents": [_DOCUMENT], "next_cursor": "bGVhdmU"}]})

    documents: list[DocumentResult] = Field(description="This page's.")
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last one.")


class PageQuery(BaseModel):
    """Which page of the documents."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(
        100, description="The most documents to return.", json_schema_extra={"minimum": 1, "maximum": MAX_PAGE}
    )
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")


class DeleteBody(Body):
    """Which documents to delete: `ids` or `filter`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["leave"]}, {"filter": FILTER_EXAMPLE}]})

    ids: list[str] | None = Field(None, description="Ids; those that are not there are passed over.")
    filter: Filter = None


class DeleteResult(Result):
    """What a delete did."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"deleted": 1}]})

    deleted: int = Field(description="Documents deleted.")


def document_json(document: Document) -> dict[str, Any]:
    """Return a DocumentResult as a dict."""
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": document.metadata,
    }
