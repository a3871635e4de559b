"""Citations as OpenAI's clients know them."""

import pytest
from openai.types.chat.chat_completion_message import Annotation

from retrieval.documents import AnswerSpan, Citation
from retrieval.service.schemas import chat
from retrieval.service.schemas.answers import annotations_json


def citation(document_id: str, *spans: tuple[int, int], title: str = "Leave") -> Citation:
    return Citation(
        number=1,
        chunk_id=f"{document_id}#1",
        document_id=document_id,
        title=title,
        start=5,
        end=9,
        text="text",
        answer_spans=[AnswerSpan(start=start, end=end) for start, end in spans],
    )


def test_each_statement_and_source_is_an_annotation() -> None:
    """In the order of the answer, as OpenAI's own package reads them."""
    found = annotations_json([citation("a", (0, 9), (20, 30)), citation("b", (10, 19), title="")], "handbook")
    cited = [Annotation.model_validate(one).url_citation for one in found]
    assert [(one.start_index, one.end_index, one.title) for one in cited] == [
        (0, 9, "Leave"),
        (10, 19, "b"),
        (20, 30, "Leave"),
    ]
    assert [chat.Annotation.model_validate(one).model_dump() for one in found] == found


@pytest.mark.parametrize(
    ("document_id", "path"),
    [
        ("leave", "/v1/collections/handbook/documents/leave#char=5,9"),
        ("hr/leave 2026.md", "/v1/collections/handbook/documents/hr/leave%202026.md#char=5,9"),
        ("what?#1", "/v1/collections/handbook/documents/what%3F%231#char=5,9"),
    ],
)
def test_its_address_leads_to_the_document(document_id: str, path: str) -> None:
    """The document's route in this service, and the source's characters as RFC 5147 writes them."""
    found = annotations_json([citation(document_id, (0, 9))], "handbook")
    assert found[0]["url_citation"]["url"] == path
