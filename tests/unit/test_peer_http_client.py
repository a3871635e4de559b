"""The load client against a server that only answers."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.http.client import Answer, Figures, Load, drive, read_requests, write_requests
from benchmarks.http.echo import Echo

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhit hit "


@pytest.mark.parametrize("cut", range(1, len(GOOD)))
def test_an_answer_ends_where_its_length_says(cut: int) -> None:
    answer = Answer()
    assert not answer.is_complete_with(GOOD[:cut])
    assert answer.is_complete_with(GOOD[cut:])
    assert answer.status == 200


def test_an_answer_in_chunks_ends_with_the_empty_one() -> None:
    answer = Answer()
    assert not answer.is_complete_with(b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nhit\r\n")
    assert answer.is_complete_with(b"0\r\n\r\n")
    assert answer.status == 503


def test_an_answer_of_no_stated_end_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a length nor chunks"):
        Answer().is_complete_with(b"HTTP/1.1 200 OK\r\n\r\n")


def test_requests_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_requests([REQUEST, b"", REQUEST * 2], tmp_path / "requests")
    assert read_requests(tmp_path / "requests") == [REQUEST, b"", REQUEST * 2]


def test_whole_answers_are_counted_and_timed() -> None:
    figures = asyncio.run(_driven(GOOD, expected=2))
    assert figures.answers > 0
    assert figures.complete_answers == figures.answers
    assert figures.qps > 0
    assert 0 < figures.p50_ms <= figures.p99_ms
    assert figures.errors == []


@pytest.mark.parametrize(("answer", "expected"), [(GOOD, 10), (GOOD.replace(b"200", b"500"), 2)])
def test_short_and_failed_answers_are_told_of(answer: bytes, expected: int) -> None:
    figures = asyncio.run(_driven(answer, expected))
    assert figures.answers > 0
    assert figures.complete_answers == 0
    assert figures.errors


async def _driven(answer: bytes, expected: int) -> Figures:
    server = await asyncio.get_running_loop().create_server(lambda: Echo(answer), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        load = Load("127.0.0.1", port, "", clients=3, warm_s=0.02, measured_s=0.1, marker="hit", expected=expected)
        return await drive(load, [REQUEST])
