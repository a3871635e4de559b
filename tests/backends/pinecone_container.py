"""Pinecone's own emulator in a container, where Docker runs. It holds 100,000 records an index, in memory.

https://docs.pinecone.io/guides/operations/local-development
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

IMAGE = "ghcr.io/pinecone-io/pinecone-local:latest"
CONTROL_PORT = 5080
INDEX_PORTS = range(5081, 5091)


@contextmanager
def pinecone_local() -> Iterator[str]:
    """Run the emulator, and give the address of its control plane. Any API key does.

    It answers with ports of its own for indexes, so these are the same outside as inside. Skips the test, with
    the reason, where testcontainers is not installed or Docker does not run.
    """
    testcontainers = pytest.importorskip("testcontainers.core.container", reason="testcontainers is not installed")
    docker = pytest.importorskip("docker", reason="testcontainers is not installed")

    try:
        container = testcontainers.DockerContainer(IMAGE)
    except docker.errors.DockerException as error:
        pytest.skip(f"Docker does not run: {error}")
    container.with_env("PORT", str(CONTROL_PORT)).with_env("PINECONE_HOST", "localhost")
    for port in (CONTROL_PORT, *INDEX_PORTS):
        container.with_bind_ports(port, port)
    with container:
        _wait_until_it_answers()
        yield f"http://localhost:{CONTROL_PORT}"


def _wait_until_it_answers(timeout_s: float = 60.0) -> None:
    """Ask for the list of indexes until it comes."""
    from pinecone import Pinecone, RetryConfig

    retries = RetryConfig(max_retries=int(timeout_s), backoff_factor=1.0, max_wait=1.0)
    with Pinecone(api_key="pclocal", host=f"http://localhost:{CONTROL_PORT}", retry_config=retries) as control:
        control.indexes.list()
