"""The managed stores as the benchmarks have them: the project's test servers, in processes of their own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

PINECONE_KEY = "test-key"


@contextmanager
def stores() -> Iterator[dict[str, str]]:
    """Run Weaviate and Pinecone, and give the settings that lead to them, as environment variables."""
    rest, grpc, pinecone = free_port(), free_port(), free_port()
    weaviate = ["-m", "tests.fakes.weaviate_server", "--port", str(rest), "--grpc-port", str(grpc)]
    with ExitStack() as stack:
        for words in (weaviate, ["-m", "tests.fakes.pinecone_server", "--port", str(pinecone)]):
            stack.enter_context(process([sys.executable, *words], dict(os.environ)))
        for port in (rest, grpc, pinecone):
            until_open(port)
        yield {
            "RAGSTONE_WEAVIATE_URL": f"http://127.0.0.1:{rest}",
            "RAGSTONE_WEAVIATE_GRPC_PORT": str(grpc),
            "RAGSTONE_PINECONE_HOST": f"http://127.0.0.1:{pinecone}",
            "RAGSTONE_PINECONE_API_KEY": PINECONE_KEY,
        }


@contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Run one of our own commands while the block runs."""
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as running:  # noqa: S603
        try:
            yield
        finally:
            running.terminate()
            running.wait(30)


def free_port() -> int:
    """Return a port of loopback that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def until_open(port: int) -> None:
    """Return when something listens on a port of loopback."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nothing listens on port {port}")
