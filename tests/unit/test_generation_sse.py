"""Server-sent events from bytes that are cut anywhere."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.generation.sse import MAX_EVENT_BYTES, EventDecoder, EventTooLong

DATA_LINES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def decoded(stream: bytes, cuts: list[int] | None = None) -> list[str]:
    decoder = EventDecoder()
    edges = [0, *sorted(cuts or []), len(stream)]
    parts = (stream[start:end] for start, end in pairwise(edges))
    return [event for part in parts for event in decoder.feed(part)]


@given(
    events=st.lists(st.lists(DATA_LINES, min_size=1, max_size=3), max_size=6),
    line_end=LINE_ENDS,
    mark=st.booleans(),
    data=st.data(),
)
def test_events_are_the_same_wherever_the_bytes_are_cut(
    events: list[list[str]], line_end: str, mark: bool, data: st.DataObject
) -> None:
    """What was put in comes out, with any line end, through cuts in characters and in CRLFs."""
    text = "".join("".join(f"data: {line}{line_end}" for line in lines) + line_end for lines in events)
    stream = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    assert decoded(stream, cuts) == ["\n".join(lines) for lines in events]


@given(stream=st.binary(max_size=200), data=st.data())
def test_any_bytes_give_the_same_events_in_one_piece_and_cut(stream: bytes, data: st.DataObject) -> None:
    """Garbage neither crashes nor depends on the cuts."""
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    assert decoded(stream, cuts) == decoded(stream)


def test_comments_other_fields_and_a_missing_space_are_understood() -> None:
    """Comments keep a connection alive, `event` and `id` are not data, and one space is no part of the data."""
    stream = b": ping\n\nevent: x\nid: 1\ndata:one\n\ndata:  two\nretry: 5\ndata\n\n"
    assert decoded(stream) == ["one", " two\n"]


def test_an_event_that_the_stream_ends_in_is_left_out() -> None:
    """Half an event is not an event."""
    assert decoded(b"data: whole\n\ndata: half\n") == ["whole"]


@pytest.mark.parametrize("line", [b"x" * 4096, b"data: " + b"x" * 4096 + b"\n", b"data\n" * 1024])
def test_an_endless_event_is_refused(line: bytes) -> None:
    """A server cannot fill the memory with a line, or an event, that never ends."""
    with pytest.raises(EventTooLong):
        decoded(line * (2 * MAX_EVENT_BYTES // len(line)))


@pytest.mark.parametrize("line_end", [b"", b"\n"], ids=["a line", "an event"])
def test_a_long_event_in_small_parts_takes_time_in_proportion(line_end: bytes) -> None:
    """What was looked at is not looked at again."""
    part = b"data: " + b"x" * 14 + line_end
    took = []
    for parts in (10_000, 40_000):
        least_s = 60.0
        for _ in range(3):
            decoder = EventDecoder()
            began = time.process_time()
            for _ in range(parts):
                decoder.feed(part)
            least_s = min(least_s, time.process_time() - began)
        took.append(least_s)
    assert took[1] < 8 * took[0]
