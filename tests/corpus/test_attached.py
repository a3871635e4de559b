"""An index as one process has it: set aside when it fails, asked again in good time."""

import logging
import time
from collections.abc import Iterator

import numpy as np
import pytest

from backends import attached
from backends.attached import AttachedIndex
from backends.corpus.collections import CollectionState, identity
from backends.corpus.database import Database
from backends.errors import IndexUnavailable
from backends.memory import MemoryIndex
from backends.types import Candidates, IndexSpec
from tests.corpora import made_collection

SPEC = IndexSpec(dimension=4)
QUERY = np.ones((1, 4), np.float32)


class _Unsearchable(MemoryIndex):
    """It stands, and says so, and every search of it fails."""

    searches = 0

    def search(self, *_: object, **__: object) -> Candidates:
        self.searches += 1
        raise IndexUnavailable("the search is broken")


@pytest.fixture
def collection(database: Database, name: str) -> Iterator[CollectionState]:
    with made_collection(database, name, SPEC, "memory") as made:
        yield made


def test_an_index_that_relapses_is_asked_less_and_less(
    database: Database, collection: CollectionState, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the index says that it is well and its searches fail, the time between two tries doubles."""
    monkeypatch.setattr(attached, "RETRY_S", 0.02)
    index = _Unsearchable(SPEC, identity(database, collection))
    index.build((), 0)
    asked = AttachedIndex(database, collection, index)
    deadline_s = time.monotonic() + 1.5
    with caplog.at_level(logging.WARNING, "backends.attached"):
        while time.monotonic() < deadline_s:
            with pytest.raises(IndexUnavailable):
                asked.search(QUERY, 1, None, None, None)
            time.sleep(0.005)
    assert 2 <= index.searches <= 8
    assert len(caplog.records) <= 2 * index.searches
    assert asked.away is not None
    assert asked.away.retry_s > 4 * attached.RETRY_S


def test_one_failure_is_forgiven_at_once(
    database: Database, collection: CollectionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever keeps an index may take it back the moment that it can be followed again."""
    monkeypatch.setattr(attached, "RETRY_S", 60.0)
    index = MemoryIndex(SPEC, identity(database, collection))
    index.build((), 0)
    asked = AttachedIndex(database, collection, index)
    asked.set_aside("a cable was pulled")
    with pytest.raises(IndexUnavailable, match="a cable was pulled"):
        asked.search(QUERY, 1, None, None, None)
    asked.take_back()
    assert asked.search(QUERY, 1, None, None, None).applied == 0
