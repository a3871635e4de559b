"""What a move would take, said before anything is moved."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

import retrieval
from backends.errors import InvalidInput, InvalidSettings
from ops import moving
from ops.moving import planning
from retrieval import Ragstone
from retrieval.config import Settings
from retrieval.placement import MOVE_TARGETS, index_folder
from tests.moving.subject import DIMENSION, Subject, names
from tests.service.serving import database_of_its_own

CHUNKS = 1_200
"""Enough for the rate of a move to be worth remembering."""


@pytest.fixture(scope="module")
def fresh_rag(postgres_url: str, settings: Settings) -> Iterator[Ragstone]:
    """A corpus in which nothing was ever moved."""
    with database_of_its_own(postgres_url, "planning") as url, retrieval.open(url, settings=settings) as rag:
        yield rag


@pytest.fixture
def large(fresh_rag: Ragstone, name: str) -> Iterator[Subject]:
    made = Subject(fresh_rag, fresh_rag.create_collection(name, dimension=DIMENSION))
    made.put(names(0, CHUNKS), seed=1)
    yield made
    fresh_rag.delete_collection(name)


def test_each_target(large: Subject, settings: Settings) -> None:
    """For each backend a plan says how long, how much and where, measured on these chunks, and leaves nothing."""
    wheres = {"faiss": "on this machine", "weaviate": "in Weaviate", "pinecone": "in Pinecone"}
    before = list(index_folder(settings).glob("*"))
    for target, where in wheres.items():
        found = moving.plan(large.rag, large.name, target)
        assert (found.source, found.target, found.due, found.where) == ("pgvector", target, False, where)
        assert (found.chunks, found.dimension) == (CHUNKS, DIMENSION)
        assert found.rate_source == "a build of 1,200 of its chunks, thrown away"
        assert found.duration_s == pytest.approx(CHUNKS / found.chunks_per_s)
        assert found.chunks_per_s > 0
        assert found.disk_bytes > CHUNKS * DIMENSION
        assert (found.memory_bytes > 0) == (target != "pinecone")
        assert found.as_dict()["collection"] == large.name
    assert large.standing == [("pgvector", "serving")]
    assert list(index_folder(settings).glob("*")) == before


@pytest.mark.usefixtures("few_queries", "soon")
def test_the_second_time_it_knows(large: Subject) -> None:
    """Once a move into a backend was made, the next plan reckons with its rate instead of trying."""
    large.move("faiss")
    large.move("pgvector")
    again = moving.plan(large.rag, large.name, "faiss")
    assert again.rate_source == "the last move to faiss"
    half = large.rag.create_collection(f"{large.name}.half", dimension=DIMENSION * 2)
    try:
        elsewhere = moving.plan(large.rag, half.name, "faiss")
        assert elsewhere.chunks_per_s == pytest.approx(again.chunks_per_s / 2)
        assert elsewhere.duration_s == 0
    finally:
        large.rag.delete_collection(half.name)
    assert moving.plan(large.rag, large.name, "weaviate").rate_source.endswith("thrown away")


@pytest.mark.usefixtures("few_queries", "soon")
def test_back_into_the_corpus(large: Subject) -> None:
    """A plan for pgvector is measured on a copy of some rows in PostgreSQL, which is gone afterwards."""
    large.move("weaviate")
    found = moving.plan(large.rag, large.name, "pgvector")
    assert (found.source, found.target) == ("weaviate", "pgvector")
    assert found.chunks_per_s > 0
    assert found.memory_bytes > CHUNKS * DIMENSION * 2
    with large.rag.database.connection() as connection:
        assert connection.execute("SELECT to_regclass('ragstone_probe')").fetchone() == (None,)


def test_without_a_target_size_decides(large: Subject) -> None:
    """Without a target the plan is for where the size says, and says why; where it is, nothing is needed."""
    stays = moving.plan(large.rag, large.name)
    assert (stays.target, stays.due, stays.duration_s, stays.disk_bytes) == ("pgvector", False, 0, 0)
    assert stays.reason == "1,200 chunks are not above its threshold of 10,000,000"
    large.collection.configure(placement_threshold=1_000)
    goes = moving.plan(large.rag, large.name)
    assert (goes.target, goes.due) == ("faiss", True)
    assert goes.reason == "1,200 chunks are above its threshold of 1,000"


def test_what_cannot_be_planned(large: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that there is not, or that nobody has configured, is refused by what is to be mended."""
    with pytest.raises(InvalidInput, match="'nowhere'"):
        moving.plan(large.rag, large.name, "nowhere")
    unconfigured = large.rag.settings.model_copy(update={"weaviate_url": None})
    monkeypatch.setattr(large.rag, "settings", unconfigured)
    with pytest.raises(InvalidSettings, match="RAGSTONE_WEAVIATE_URL"):
        moving.plan(large.rag, large.name, "weaviate")


@pytest.mark.parametrize("backend", MOVE_TARGETS)
def test_needs_grow_with_the_collection(large: Subject, backend: str) -> None:
    """Ten times the chunks need about ten times the bytes."""
    one = planning.needed(replace(large.state, chunks=100_000), backend)
    ten = planning.needed(replace(large.state, chunks=1_000_000), backend)
    assert ten.disk_bytes == pytest.approx(10 * one.disk_bytes, rel=0.01)
    assert ten.memory_bytes == pytest.approx(10 * one.memory_bytes, rel=0.01)
