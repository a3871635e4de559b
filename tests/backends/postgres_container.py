"""A real PostgreSQL with pgvector in a container, as github.com/pgvector/pgvector#docker runs it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

IMAGE = "pgvector/pgvector:pg18"


@contextmanager
def postgres_container(image: str = IMAGE) -> Iterator[str]:
    """Run PostgreSQL until the end, and give its URL; skips where testcontainers is missing or there is no Docker."""
    postgres = pytest.importorskip("testcontainers.postgres", reason="needs testcontainers, and Docker")
    from docker.errors import DockerException

    try:
        container = postgres.PostgresContainer(image, driver=None).start()
    except DockerException as fault:
        pytest.skip(f"needs Docker: {fault}")
    try:
        yield container.get_connection_url()
    finally:
        container.stop()
