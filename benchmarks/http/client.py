"""A load client in a process of its own: connections that are kept, requests that were encoded before the clock.

    python -m benchmarks.http.client <load.json

Reads one `Load` as JSON from standard input and writes one `Figures` to standard output. Each connection has one
request under way at a time and sends the next as soon as the answer is complete. Of an answer it reads the status,
where it ends, and how often `marker` stands in it; that keeps it several times faster than a server in Python.
"""

import asyncio
import gc
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import cast

import numpy as np

HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CONTENT_LENGTH = b"content-length:"
CHUNKED = b"transfer-encoding: chunked"
SHOWN_ERRORS = 3


@dataclass(frozen=True)
class Load:
    """What to send where: `requests` is a file of whole HTTP requests, each after its length in 4 bytes, big-endian."""

    host: str
    port: int
    requests: str
    clients: int
    warm_s: float
    measured_s: float
    marker: str
    expected: int


@dataclass
class Figures:
    """What was seen between the end of the warm-up and the end of the measurement; milliseconds of whole requests."""

    qps: float = 0.0
    """Of complete answers."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    answers: int = 0
    complete_answers: int = 0
    """Answers with status 200 in which the marker stood as often as expected."""
    all_answers: int = 0
    """Those of the warm-up, too."""
    client_cpu_share: float = 0.0
    """Of one core: near 1, the client would be the limit."""
    errors: list[str] = field(default_factory=list)


class Answer:
    """One response as it arrives."""

    __slots__ = ("_end", "data")

    def __init__(self) -> None:
        self.data = b""
        self._end = 0  # where it ends; 0 as long as that is not known, -1 where chunks say so

    def is_complete_with(self, data: bytes) -> bool:
        """Take what arrived; whether that was the end of it."""
        self.data = self.data + data if self.data else data
        if self._end == 0:
            self._end = _end_of(self.data)
        if self._end > 0:
            return len(self.data) >= self._end
        return self._end < 0 and self.data.endswith(LAST_CHUNK)

    @property
    def status(self) -> int:
        """The status of its first line."""
        return int(self.data[9:12])


class Run:
    """The requests, and what became of them."""

    def __init__(self, load: Load, requests: list[bytes]) -> None:
        self.load = load
        self.marker = load.marker.encode()
        self.requests = requests
        self.position = count()
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.complete: list[bool] = []
        self.errors: list[str] = []
        self.is_over = False

    def next_request(self) -> bytes:
        """The next of the requests, from the first again after the last."""
        return self.requests[next(self.position) % len(self.requests)]

    def note(self, started: float, answer: Answer) -> None:
        """Keep what is needed to say how it went."""
        self.ends.append(time.perf_counter())
        self.starts.append(started)
        is_complete = answer.status == 200 and answer.data.count(self.marker) == self.load.expected
        self.complete.append(is_complete)
        if not is_complete and len(self.errors) < SHOWN_ERRORS:
            self.errors.append(answer.data[:300].decode("utf-8", "replace"))

    def figures(self, began: float, ended: float) -> Figures:
        """Sum up the answers that ended between two readings of the clock."""
        starts, ends = np.array(self.starts), np.array(self.ends)
        inside = (ends >= began) & (ends <= ended)
        ms = (ends - starts)[inside] * 1e3
        p50, p99 = np.percentile(ms, [50, 99]) if len(ms) else (0.0, 0.0)
        complete = int(np.array(self.complete, dtype=bool)[inside].sum())
        return Figures(
            qps=complete / (ended - began),
            p50_ms=float(p50),
            p99_ms=float(p99),
            answers=len(ms),
            complete_answers=complete,
            all_answers=len(ends),
            errors=self.errors,
        )


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._answer = Answer()
        self._started = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        if self._answer.is_complete_with(data):
            self._run.note(self._started, self._answer)
            self._answer = Answer()
            if not self._run.is_over:
                self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._run.is_over:
            self._run.errors.append(f"the server closed a connection: {exc}")

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def _send(self) -> None:
        request = self._run.next_request()
        self._started = time.perf_counter()
        self._transport.write(request)


async def drive(load: Load, requests: list[bytes]) -> Figures:
    """Connect every client, warm up, measure."""
    run = Run(load, requests)
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda: Client(run), load.host, load.port) for _ in range(load.clients)]
    await asyncio.sleep(load.warm_s)
    began, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.sleep(load.measured_s)
    ended, cpu_s = time.perf_counter(), time.process_time() - cpu_s
    run.is_over = True
    for _, client in opened:
        client.close()
    figures = run.figures(began, ended)
    figures.client_cpu_share = cpu_s / (ended - began)
    return figures


def write_requests(requests: list[bytes], path: Path) -> None:
    """Write a file for `Load.requests`."""
    path.write_bytes(b"".join(len(request).to_bytes(4) + request for request in requests))


def read_requests(path: Path) -> list[bytes]:
    """Read what `write_requests` wrote."""
    data, position, requests = path.read_bytes(), 0, []
    while position < len(data):
        length = int.from_bytes(data[position : position + 4])
        requests.append(data[position + 4 : position + 4 + length])
        position += 4 + length
    return requests


def main() -> None:
    load = Load(**json.load(sys.stdin))
    requests = read_requests(Path(load.requests))
    gc.freeze()
    gc.disable()  # a pause of the client would be counted as the server's
    print(json.dumps(asdict(_with_a_fast_loop(load, requests))))


def _with_a_fast_loop(load: Load, requests: list[bytes]) -> Figures:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.run(drive(load, requests))
    return uvloop.run(drive(load, requests))


def _end_of(data: bytes) -> int:
    head_end = data.find(HEAD_END)
    if head_end < 0:
        return 0
    head = data[:head_end].lower()
    start = head.find(CONTENT_LENGTH)
    if start < 0:
        if CHUNKED not in head:
            raise ValueError(f"neither a length nor chunks: {head[:300]!r}")
        return -1
    length = head[start + len(CONTENT_LENGTH) :].split(b"\r\n", 1)[0]
    return head_end + len(HEAD_END) + int(length)


if __name__ == "__main__":
    main()
