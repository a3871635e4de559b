"""Where sentences begin and end."""

from hypothesis import given
from hypothesis import strategies as st

from retrieval.generation.sentences import split_sentences


def prose(text: str) -> list[str]:
    return [text[found.start : found.end] for found in split_sentences(text) if found.prose]


def others(text: str) -> list[str]:
    return [text[found.start : found.end] for found in split_sentences(text) if not found.prose]


@given(
    st.text(
        st.sampled_from(list("aB1.!? \n\r\t>*-`#=[]()\u201d\u3002\u4f60\u2028"))
        | st.characters(exclude_categories=["Cs"]),
        max_size=120,
    )
)
def test_sentences_are_in_order_and_hold_no_empty_line(text: str) -> None:
    """Whatever the text, its pieces follow each other, are not blank, and stand in one paragraph each."""
    end = 0
    for found in split_sentences(text):
        piece = text[found.start : found.end]
        assert end <= found.start < found.end
        assert piece == piece.strip()
        assert "\n\n" not in piece
        end = found.end


def test_headings_code_and_tables_are_no_prose() -> None:
    """Of a Markdown page the sentences are left, with code blocks, headings, tables and tags set apart."""
    page = (
        "# The Heap Is Not Prose.\n\nThe heap is less organized. It asks\nfor space!\n\n"
        '```rust\nlet s = String::from("A word in code.");\n```\n\n'
        '<Listing number="1">\n\n| a | b |\n|---|---|\n| This is a cell. | x |\n\n> A note stands here too.\n'
    )
    assert prose(page) == ["The heap is less organized.", "It asks\nfor space!", "A note stands here too."]


def test_underlined_headings_grammar_and_footnotes_are_no_prose() -> None:
    """Of a reStructuredText page the sentences are left, list items without their bullets."""
    page = (
        'The "try" statement is here.\n****************************\n\n'
        'It specifies exception handlers.  [1]\n\n   try_stmt ::= try1_stmt | "This is grammar."\n\n'
        "* An item is a sentence\n  over two lines.\n* Another item is one too.\n"
    )
    assert prose(page) == [
        "It specifies exception handlers.",
        "An item is a sentence\n  over two lines.",
        "Another item is one too.",
    ]


def test_a_full_stop_does_not_always_end_a_sentence() -> None:
    """Abbreviations, numbers, versions and a following small letter go on."""
    text = "Use a tool, e.g. GNU make, or version 3.11 of it. Dr. Smith wrote all of them. It works."
    assert [text[found.start : found.end] for found in split_sentences(text)] == [
        "Use a tool, e.g. GNU make, or version 3.11 of it.",
        "Dr. Smith wrote all of them.",
        "It works.",
    ]


def test_sentences_without_spaces_between_words_are_found() -> None:
    """Chinese sentences end in their own full stop, with no space after it."""
    text = (
        "\u6240\u6709\u6743\u662f\u4e00\u7ec4\u89c4\u5219\u3002\u5185\u5b58\u7531\u7f16\u8bd1\u5668\u7ba1\u7406\u3002"
    )
    assert prose(text) == [text[:9], text[9:]]


def test_text_before_the_end_of_a_fence_is_code() -> None:
    """A chunk that was cut out of a code block begins with code."""
    assert prose("This looks like a sentence.\n```\nThis one really is prose.\n") == ["This one really is prose."]


def test_a_fragment_is_no_prose() -> None:
    """The end of a sentence that began in the chunk before is not quoted as one."""
    assert others("and so it ended here at last. Then a new one began.") == ["and so it ended here at last."]
