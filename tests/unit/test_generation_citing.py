"""Citations from the markers of an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.documents import Hit
from retrieval.generation.base import Passage
from retrieval.generation.citing import cite

DOCUMENT = "Ownership is a set of rules. Each value has an owner. There is one owner at a time."


def passage(number: int, start: int = 0, end: int = len(DOCUMENT)) -> Passage:
    hit = Hit(
        id=f"rust#{number}",
        document_id="rust",
        title="Ownership",
        score=0.9,
        text=DOCUMENT[start:end],
        metadata={},
        start=start,
        end=end,
    )
    return Passage(number=number, hit=hit, text=hit.text, start=start, end=end)


PASSAGES = [passage(1, 0, 28), passage(2, 29, 53), passage(3, 54)]


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("Rules [1].", [1]),
        ("Owners [2, 3] and rules [1].", [2, 3, 1]),
        ("Both [1][2].", [1, 2]),
        ("Spread [ 1 ; 3 ].", [1, 3]),
        ("All of them [1-3].", [1, 2, 3]),
        ("Again [2] and again [2].", [2]),
        ("Invented [4], [0], [99999999999999999999] and [1, 7].", [1]),
        ("Code: `values[2]` and\n```\nvalues[3]\n```\nbut [1].", [1]),
        ("Nothing [a] [] [one] 1.", []),
    ],
)
def test_markers_resolve_to_the_given_numbers_alone(answer: str, numbers: list[int]) -> None:
    """Every way of writing markers is read, in order of first mention; unknown numbers and code cite nothing."""
    assert [citation.number for citation in cite(answer, PASSAGES)] == numbers


def test_a_citation_points_at_its_chunk_and_its_place_in_the_document() -> None:
    """It carries chunk, document, title and a span whose text is exactly the document's."""
    (citation,) = cite("An owner [2].", PASSAGES)
    assert (citation.chunk_id, citation.document_id, citation.title) == ("rust#2", "rust", "Ownership")
    assert DOCUMENT[citation.start : citation.end] == citation.text == "Each value has an owner."


def test_a_quotation_is_cited_with_its_own_span() -> None:
    """In an answer of quotations each paragraph is its own citation, also twice from one passage."""
    whole = [passage(1)]
    answer = "Each value has an owner. [1]\n\nThere is one owner at a time. [1]"
    citations = cite(answer, whole, quotes=True)
    assert [citation.text for citation in citations] == [
        "Each value has an owner.",
        "There is one owner at a time.",
    ]
    assert all(DOCUMENT[citation.start : citation.end] == citation.text for citation in citations)


def test_a_bracketed_number_inside_a_quotation_cites_nothing() -> None:
    """Footnotes of the source are part of the quoted text."""
    text = "It is so [2] by law."
    hit = Hit(id="law", document_id="law", title="", score=1, text=text, metadata={}, start=0, end=len(text))
    given_passages = [Passage(number=1, hit=hit, text=text, start=0, end=len(text)), passage(2)]
    citations = cite(f"{text} [1]", given_passages, quotes=True)
    assert [(citation.number, citation.text) for citation in citations] == [(1, text)]


MARKED_TEXT = st.text(st.sampled_from("[]0123456789,;-\u2013 \n`ab\u0663"), max_size=60) | st.text(max_size=60)


@given(answer=MARKED_TEXT, given_count=st.integers(0, 3), quotes=st.booleans())
def test_what_was_not_given_is_never_cited(answer: str, given_count: int, quotes: bool) -> None:
    """Whatever a model writes, citing does not fail, and cites given passages with their true spans."""
    passages = PASSAGES[:given_count]
    for citation in cite(answer, passages, quotes=quotes):
        assert citation.number in {each.number for each in passages}
        assert DOCUMENT[citation.start : citation.end] == citation.text
