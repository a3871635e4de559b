"""A real Weaviate in a container, as its documentation runs it: docs.weaviate.io/deploy/installation-guides/docker."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

IMAGE = "cr.weaviate.io/semitechnologies/weaviate:1.33.0"
REST_PORT, GRPC_PORT = 8080, 50051
ENVIRONMENT = {
    "QUERY_DEFAULTS_LIMIT": "25",
    "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "true",
    "PERSISTENCE_DATA_PATH": "/var/lib/weaviate",
    "CLUSTER_HOSTNAME": "node1",
    "AUTOSCHEMA_ENABLED": "false",
    "DISABLE_TELEMETRY": "true",
}
READY_S = 120


@dataclass(frozen=True, slots=True)
class RealWeaviate:
    url: str
    grpc_port: int


@contextmanager
def weaviate_container(image: str = IMAGE, *, async_indexing: bool = False) -> Iterator[RealWeaviate]:
    """Run Weaviate until the end; skips where testcontainers is not installed or there is no Docker."""
    containers = pytest.importorskip("testcontainers.core.container", reason="needs testcontainers, and Docker")
    from docker.errors import DockerException
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    ready = HttpWaitStrategy(REST_PORT, "/v1/.well-known/ready").for_status_code(200)
    try:
        container = (
            containers.DockerContainer(image)
            .with_exposed_ports(REST_PORT, GRPC_PORT)
            .with_envs(**ENVIRONMENT, ASYNC_INDEXING=str(async_indexing).lower())
            .waiting_for(ready.with_startup_timeout(READY_S))
        )
        container.start()
    except DockerException as fault:
        pytest.skip(f"needs Docker: {fault}")
    try:
        host = container.get_container_host_ip()
        yield RealWeaviate(
            f"http://{host}:{container.get_exposed_port(REST_PORT)}", int(container.get_exposed_port(GRPC_PORT))
        )
    finally:
        container.stop()
