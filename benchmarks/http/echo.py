"""A server that does nothing but answer: how fast the load client itself can be.

    python -m benchmarks.http.echo --port 8002 --answer answer.json

It sends what the file holds, whatever is asked.
"""

import argparse
import asyncio
from pathlib import Path
from typing import cast

import uvloop

HEAD_END = b"\r\n\r\n"
LENGTH = b"Content-Length: "


class Echo(asyncio.Protocol):
    """Waits for the end of each request, whose length stands in its head, and gives the same answer to all."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._missing = 0  # bytes of the request under way
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._missing == 0:
            head, _, body = data.partition(HEAD_END)
            start = head.index(LENGTH) + len(LENGTH)
            self._missing = int(head[start:].split(b"\r\n", 1)[0]) - len(body)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._transport.write(self._answer)


async def serve(port: int, answer: bytes) -> None:
    """Answer until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(answer), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", type=Path, required=True)
    arguments = parser.parse_args()
    body = arguments.answer.read_bytes()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
    uvloop.run(serve(arguments.port, head.encode() + body))


if __name__ == "__main__":
    main()
