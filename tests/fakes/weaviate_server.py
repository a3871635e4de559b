"""A server on loopback that speaks Weaviate's REST and gRPC, searches exactly, and misbehaves as it is told.

    python -m tests.fakes.weaviate_server --port 8080 --grpc-port 50051

runs it until it is killed. What it answers follows Weaviate's own specification of its REST and the messages that
weaviate-client generates from Weaviate's .proto files; what it keeps is in memory.
"""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fakes.weaviate.manners import Behaviour
from tests.fakes.weaviate.rest import Exchange, RestServer
from tests.fakes.weaviate.rpc import grpc_server
from tests.fakes.weaviate.store import Store

VERSION = "1.33.0"


class FakeWeaviate:
    """One server. Port 0 takes a free one, which it keeps through `stop` and `start`, as it keeps its data."""

    def __init__(
        self, port: int = 0, grpc_port: int = 0, *, version: str = VERSION, api_key: str | None = None
    ) -> None:
        self.store = Store()
        self.exchanges: list[Exchange] = []
        self.version = version
        self._behaviour = Behaviour()
        self._api_key = api_key
        self._port = port
        self.grpc_port = grpc_port
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._behaviour.stopping.clear()
        self._rest = RestServer(self._port, self.store, self._behaviour, version=self.version, api_key=self._api_key)
        self._rest.exchanges = self.exchanges
        self._port = self._rest.server_address[1]
        self._grpc, self.grpc_port = grpc_server(self.store, self._behaviour, self._api_key, self.grpc_port)

    def stop(self) -> None:
        """Go away at once: calls under way break off, and nothing listens until `start`."""
        self._behaviour.stopping.set()
        self._grpc.stop(grace=None).wait()
        self._rest.stop()

    def misbehave(self, **manners: float | str) -> None:
        """Misbehave as tests.fakes.weaviate.manners.Manners says, from now on; without any, behave."""
        self._behaviour.set(**manners)

    def left(self, manner: str) -> int:
        """How much of a count is not used up."""
        return self._behaviour.left(manner)

    def forget(self) -> None:
        """Lose every class and all data."""
        with self.store.lock:
            self.store.classes.clear()


@contextmanager
def weaviate_server(
    port: int = 0, grpc_port: int = 0, *, version: str = VERSION, api_key: str | None = None
) -> Iterator[FakeWeaviate]:
    """Run a server."""
    server = FakeWeaviate(port, grpc_port, version=version, api_key=api_key)
    try:
        yield server
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    asked = parser.parse_args()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # also for the threads that begin now: `sigwait` alone gets them
    with weaviate_server(asked.port, asked.grpc_port):
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
