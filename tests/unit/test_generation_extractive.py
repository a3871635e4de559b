"""The generator that quotes."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.context import build_prompt
from retrieval.documents import Hit, Usage
from retrieval.embedding.base import Embeddings, Kind
from retrieval.generation.base import Ending
from retrieval.generation.budget import Budget
from retrieval.generation.citing import cite
from retrieval.generation.extractive import ExtractiveGenerator

WORDS = ["owner", "value", "heap", "stack", "borrow"]


def embed(texts: Sequence[str], kind: Kind) -> Embeddings:
    """Which of five words a text holds, and two little things: a similarity to work out in the head."""
    assert kind == "query"
    rows = [[float(word in text.lower()) for word in WORDS] + [0.1, 0.1 * ("faintly" in text)] for text in texts]
    found = np.array(rows, dtype=np.float32)
    normalised: Embeddings = found / np.linalg.norm(found, axis=1, keepdims=True)
    return normalised


def hit(text: str, document_id: str = "rust", start: int = 0) -> Hit:
    return Hit(
        id=f"{document_id}#{start}",
        document_id=document_id,
        title="",
        score=0.5,
        text=text,
        metadata={},
        start=start,
        end=start + len(text),
    )


def quoted(question: str, *hits: Hit, max_tokens: int | None = None) -> str:
    prompt = build_prompt(question, hits, budget=Budget(context_tokens=3_000))
    *pieces, last = ExtractiveGenerator(embed).stream(prompt, max_tokens)
    assert last == Ending(usage=Usage(), finish_reason="stop")
    return "".join(map(str, pieces))


def test_the_sentences_nearest_to_the_question_are_quoted_in_reading_order() -> None:
    """Those that speak of it stand in the order of their document, each with its passage's number."""
    text = "Every value has an owner on the heap. The stack is small. The owner drops a value. Then we borrow it."
    assert quoted("Which value has which owner?", hit("The stack is here at last.", "other"), hit(text)) == (
        "Every value has an owner on the heap. [2]\n\nThe owner drops a value. [2]"
    )


def test_the_better_passage_wins_between_sentences_that_say_the_same() -> None:
    """Also where the other's sentence is nearer to the question by a hair."""
    hits = [hit(f"The {name} speaks of the heap.", name) for name in ("first, faintly,", "second", "third")]
    assert quoted("heap", *hits) == "The first, faintly, speaks of the heap. [1]"


def test_a_sentence_that_two_chunks_share_is_quoted_once() -> None:
    """Overlap does not repeat itself in the answer."""
    text = "The stack is small and quick. Each value lives on the heap. The borrow ends at some point."
    answer = quoted("heap value", hit(text[:59]), hit(text[30:], start=30))
    assert answer.count("Each value lives on the heap.") == 1


def test_headings_and_code_are_not_quoted() -> None:
    """A heading that is nearer to the question than any sentence is still no sentence."""
    text = "# Heap\n\nheap\n====\n\n```\nheap = value(heap)\n```\n\nAll values of the heap need an owner."
    assert quoted("heap", hit(text)) == "All values of the heap need an owner. [1]"


@pytest.mark.parametrize(
    "text", ["heap table stack", "| heap | 1 |", "#", "x" * 2_000 + " heap " + "y" * 600, "```\n\n```"]
)
def test_where_there_is_no_sentence_a_piece_is_quoted(text: str) -> None:
    """Lists, tables and text without full stops still give an answer that is found in the passage."""
    quote = quoted("heap", hit(text)).removesuffix(" [1]")
    assert quote
    assert quote in text


def test_max_tokens_leaves_out_quotations_but_never_the_first() -> None:
    """A short answer is one quotation, never half of one."""
    text = "The owner drops a value. Every value has an owner on the heap. Then we borrow it."
    assert quoted("value owner", hit(text), max_tokens=1) == "The owner drops a value. [1]"
    assert quoted("value owner", hit(text), max_tokens=1_000).count("[1]") > 1


TEXTS = st.lists(
    st.sampled_from(
        ["The heap is it. ", "An owner is here [2]. ", "\n\n", "* ", "> ", "# H\n", "```\n", "Value! ", "\u4f60\u3002"]
    ),
    min_size=1,
    max_size=12,
).map("".join)


@given(texts=st.lists(TEXTS.filter(str.strip), min_size=1, max_size=4))
def test_every_quotation_is_cited_with_exactly_its_text(texts: list[str]) -> None:
    """Each paragraph of an answer gives one citation, whose span holds what is quoted, footnotes and all."""
    offset = 100
    hits = [hit(text, f"doc{number}", offset) for number, text in enumerate(texts)]
    prompt = build_prompt("heap owner", hits, budget=Budget(context_tokens=3_000))
    pieces = [piece for piece in ExtractiveGenerator(embed).stream(prompt, None) if isinstance(piece, str)]
    citations = cite("".join(pieces), prompt.passages, quotes=True)
    assert len(citations) == len(pieces) > 0
    for citation, piece in zip(citations, pieces, strict=True):
        assert piece.strip() == f"{citation.text} [{citation.number}]"
        text = texts[int(citation.document_id.removeprefix("doc"))]
        assert text[citation.start - offset : citation.end - offset] == citation.text
