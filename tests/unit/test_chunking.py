"""Chunks: they cover the text, fit the model, and are cut at the text's own joints."""

import re
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.chunking import Chunker
from retrieval.documents import Chunk, Document
from retrieval.embedding.base import TokenSpans


SPECIAL_TOKENS = 2


def words(text: str) -> TokenSpans:
    """A word is a token; white space is none."""
    return np.array([match.span() for match in re.finditer(r"\S+", text)], dtype=np.int64).reshape(-1, 2)


def characters(text: str) -> TokenSpans:
    """Each character that is not white space is a token."""
    return np.array([(n, n + 1) for n, one in enumerate(text) if not one.isspace()], dtype=np.int64).reshape(-1, 2)


def _chunks(text: str, max_tokens: int = 22, overlap_tokens: int = 0) -> list[Chunk]:
    return Chunker(words, max_tokens, overlap_tokens).chunk(Document(id="d", text=text))


def _texts(text: str, max_tokens: int = 22, overlap_tokens: int = 0) -> list[str]:
    return [chunk.text.strip() for chunk in _chunks(text, max_tokens, overlap_tokens)]


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=400),
    st.lists(
        st.sampled_from(
            ["# Head\n", "word ", "end. ", "\n\n", "\n", "```\n", "。", "e.g. ", "x" * 40, " ", "é", "Dr. "]
        ),
        max_size=200,
    ).map("".join),
)


@given(TEXTS, st.sampled_from([words, characters]), st.integers(16, 40), st.integers(0, 8), st.text(max_size=20))
def test_chunks_cover_the_text_and_fit_the_model(
    text: str, token_spans: Callable[[str], TokenSpans], max_tokens: int, overlap_tokens: int, title: str
) -> None:
    """In order, without a gap, each exactly its span, within the budget, none of white space alone."""
    chunker = Chunker(token_spans, max_tokens, overlap_tokens)
    document = Document(id="d", text=text, title=title)
    chunks = chunker.chunk(document)
    assert chunks == chunker.chunk(document)
    assert bool(chunks) == bool(text.strip())
    if not chunks:
        return
    assert (chunks[0].start, chunks[-1].end) == (0, len(text))
    for before, after in pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        passage = chunker.passage_text(title, chunk.text)
        single = len(token_spans(chunk.text)) == 1
        assert len(token_spans(passage)) + SPECIAL_TOKENS <= max_tokens or single


def test_a_text_that_fits_is_one_chunk() -> None:
    """Twenty words and two special tokens make twenty-two."""
    assert len(_chunks("word " * 20)) == 1
    assert len(_chunks("word " * 21)) == 2


def test_a_small_rest_does_not_stand_alone() -> None:
    """Twenty-one words become eleven and ten, not twenty and one."""
    assert sorted(len(text.split()) for text in _texts("word " * 21)) == [10, 11]


def test_cuts_come_before_headings_first() -> None:
    """A heading stays with the text that follows it."""
    text = "One two three. " * 4 + "\n\n# Second\n" + "Four five six. " * 4
    assert [part.splitlines()[0][:8] for part in _texts(text)] == ["One two ", "# Second"]


def test_a_comment_in_a_code_fence_is_no_heading() -> None:
    """`# not a heading` inside a fence is code."""
    text = "Before words here. " * 4 + "\n```\n# not a heading\n```\n" + "After words here. " * 5
    assert not any(part.startswith("# not") for part in _texts(text))


def test_cuts_come_before_paragraphs_then_sentences() -> None:
    """Paragraphs are kept whole where they fit; longer ones are cut between sentences."""
    paragraph = "Eight words stand in this paragraph right here."
    assert _texts("\n\n".join([paragraph] * 4)) == ["\n\n".join([paragraph] * 2)] * 2
    sentence = "Seven words stand in this very sentence. "
    assert all(part.endswith("sentence.") for part in _texts(sentence * 9))


@pytest.mark.parametrize("sign", ["e.g. ", "Fig. ", "Dr. ", "J. "])
def test_an_abbreviation_does_not_end_a_sentence(sign: str) -> None:
    """No chunk begins in the middle of a sentence that has one."""
    text = f"This is what one calls, {sign}Smith among us, an example sentence. " * 6
    assert all(part.startswith("This") for part in _texts(text, max_tokens=30))


def test_scripts_without_spaces_are_cut_at_their_own_signs() -> None:
    """A Chinese full stop ends a sentence."""
    chunks = Chunker(characters, 22, 0).chunk(Document(id="d", text="我们今天去公园。" * 6))
    assert all(chunk.text.endswith("。") for chunk in chunks)


def test_neighbours_share_whole_sentences() -> None:
    """The overlap begins at a sentence, and is no longer than asked for."""
    sentence = "Seven words stand in this very sentence. "
    chunks = _chunks(sentence * 12, max_tokens=34, overlap_tokens=8)
    assert all(after.start == before.end - len(sentence) for before, after in pairwise(chunks))


def test_no_overlap_across_a_heading() -> None:
    """What belongs to another section is not repeated."""
    chunks = _chunks("One two three. " * 6 + "\n\n# Second\n\n" + "Four five six. " * 6, overlap_tokens=8)
    assert all(not chunk.text.startswith(("One", "three")) or "# Second" not in chunk.text for chunk in chunks)


def test_a_long_title_is_cut_to_a_quarter() -> None:
    """The text keeps three quarters of the tokens."""
    chunker = Chunker(words, 40, 0)
    title = "title " * 100
    chunks = chunker.chunk(Document(id="d", text="word " * 60, title=title))
    assert [len(chunker.passage_text(title, chunk.text).split()) for chunk in chunks] == [30, 30, 30]


@pytest.mark.parametrize(
    "text", ["x" * 5_000_000, "# " * 500_000, "a" + "\n" * 1_000_000 + "b", "```\n# x\n" * 100_000]
)
def test_odd_texts_take_seconds_not_hours(text: str) -> None:
    """Time grows with the length alone."""
    started = time.monotonic()
    chunks = Chunker(words, 256, 32).chunk(Document(id="d", text=text))
    assert chunks[-1].end == len(text)
    assert time.monotonic() - started < 60
