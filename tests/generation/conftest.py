"""A corpus of these tests' own, whose model server is a test's."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import retrieval
from retrieval.config import load
from tests.generation.engine_server import EngineServer, engine_server
from tests.service.serving import database_of_its_own


@pytest.fixture(scope="package")
def url(postgres_url: str) -> Iterator[str]:
    with database_of_its_own(postgres_url, "generation") as url:
        yield url


@pytest.fixture
def server() -> Iterator[EngineServer]:
    with engine_server() as server:
        yield server


Opening = Callable[..., retrieval.Ragstone]


@pytest.fixture
def opening(url: str) -> Iterator[Opening]:
    """Opens the corpus with settings of a test's own."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            retrieval.open(url, settings=load(embedding_model="hashing", **settings))
        )
