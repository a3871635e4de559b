"""The backends that the tests run against: test servers for the managed stores, or real ones where there are some."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from retrieval.config import Settings, load
from tests.fakes.pinecone_server import API_KEY, pinecone_server
from tests.fakes.weaviate_server import weaviate_server

BACKENDS = ("memory", "pgvector", "faiss", "weaviate", "pinecone")
DRIVERS = {"faiss": "faiss", "weaviate": "weaviate", "pinecone": "pinecone"}


class Stores:
    """Where each backend is. The servers are started when first asked for, and stopped with the run."""

    def __init__(self, config: pytest.Config, folder: Path, stack: ExitStack) -> None:
        self._config = config
        self._folder = folder
        self._stack = stack
        self._known: dict[str, dict[str, object]] = {}

    def settings(self, backend: str, **given: object) -> Settings:
        """Return settings with which this backend's indexes can be opened; skips, or fails, where they cannot."""
        required = backend in self._config.getoption("--require-backend")
        try:
            if backend not in self._known:
                self._known[backend] = self._where(backend)
        except pytest.skip.Exception as reason:
            if required:
                pytest.fail(f"--require-backend {backend}: {reason}")
            raise
        return load(**{"embedding_model": "hashing", "index_folder": str(self._folder)} | self._known[backend] | given)

    def _where(self, backend: str) -> dict[str, object]:
        if backend in DRIVERS:
            pytest.importorskip(DRIVERS[backend], reason=f"needs pip install 'ragstone[{backend}]'")
        if backend == "weaviate":
            return self._weaviate()
        return self._pinecone() if backend == "pinecone" else {}

    def _weaviate(self) -> dict[str, object]:
        if url := self._config.getoption("--weaviate-url"):
            return {"weaviate_url": url}
        if self._config.getoption("--containers"):
            from tests.backends.weaviate_container import weaviate_container

            real = self._stack.enter_context(weaviate_container())
            return {"weaviate_url": real.url, "weaviate_grpc_port": real.grpc_port}
        fake = self._stack.enter_context(weaviate_server())
        return {"weaviate_url": fake.url, "weaviate_grpc_port": fake.grpc_port}

    def _pinecone(self) -> dict[str, object]:
        if host := self._config.getoption("--pinecone-host"):
            return {"pinecone_host": host, "pinecone_api_key": load().pinecone_api_key or "pclocal"}
        if self._config.getoption("--containers"):
            from tests.backends.pinecone_container import pinecone_container

            return {
                "pinecone_host": self._stack.enter_context(pinecone_container()),
                "pinecone_api_key": "pclocal",
            }
        fake = self._stack.enter_context(pinecone_server())
        return {"pinecone_host": fake.url, "pinecone_api_key": API_KEY}


@contextmanager
def opened_stores(config: pytest.Config, folder: Path) -> Iterator[Stores]:
    """Open them for a run."""
    with ExitStack() as stack:
        yield Stores(config, folder, stack)
