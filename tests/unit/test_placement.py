"""Where a collection belongs, and how the index that it names is opened."""

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backends.corpus.collections import CollectionState
from backends.corpus.database import Database
from backends.errors import IndexUnavailable, InvalidSettings, Unsupported
from backends.types import IndexSpec
from retrieval.config import Settings, load
from retrieval.placement import (
    BACKENDS,
    belongs_to,
    builds_hnsw,
    index_folder,
    open_index,
    recall_target_of,
    threshold_of,
)
from tests.stores import DRIVERS, Stores


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell says about stores is not the tests' business."""
    for name in ("WEAVIATE_URL", "PINECONE_API_KEY", "INDEX_FOLDER", "PLACEMENT_THRESHOLD", "LARGE_BACKEND"):
        monkeypatch.delenv(f"RAGSTONE_{name}", raising=False)


def standing(chunks: int = 0, backend: str = "pgvector", **own: object) -> CollectionState:
    """Return a collection of so many chunks, served by `backend`."""
    made = CollectionState(
        id=1,
        name="handbook",
        spec=IndexSpec(dimension=3),
        stamp=None,
        sequence=1,
        documents=chunks,
        chunks=chunks,
        backend=backend,
        index_id=7,
        created_at=datetime.now(UTC),
    )
    return replace(made, **own)  # type: ignore[arg-type]  # each test names fields that there are


def settings(**given: object) -> Settings:
    return load(embedding_model="hashing", **given)


@pytest.mark.parametrize(("chunks", "backend"), [(0, "pgvector"), (10_000_000, "pgvector"), (10_000_001, "faiss")])
def test_the_line_is_ten_million(chunks: int, backend: str) -> None:
    """Up to ten million chunks a collection belongs to pgvector, and above to FAISS, unless settings say otherwise."""
    assert belongs_to(standing(chunks), settings()) == backend


@pytest.mark.parametrize("large", ["faiss", "weaviate", "pinecone"])
def test_the_large_backend_is_a_setting(large: str) -> None:
    """Above the threshold a collection goes to the large backend that the settings name, from wherever it is."""
    wanted = settings(placement_threshold=100, large_backend=large)
    assert {belongs_to(standing(101, backend), wanted) for backend in BACKENDS} == {large}


@pytest.mark.parametrize(
    ("chunks", "backend", "belongs"),
    [
        (100, "faiss", "faiss"),
        (80, "faiss", "faiss"),
        (79, "faiss", "pgvector"),
        (80, "weaviate", "weaviate"),
        (79, "pinecone", "pgvector"),
        (80, "pgvector", "pgvector"),
    ],
)
def test_it_comes_back_at_four_fifths(chunks: int, backend: str, belongs: str) -> None:
    """Between 0.8 of the threshold and the threshold a collection stays where it is; below 0.8 it comes back."""
    assert belongs_to(standing(chunks, backend), settings(placement_threshold=100)) == belongs


def test_a_collection_has_a_threshold_of_its_own() -> None:
    """A collection's own threshold counts in place of the service's, in both directions."""
    few, many = standing(60, placement_threshold=50), standing(200, placement_threshold=1_000)
    wanted = settings(placement_threshold=100)
    assert (belongs_to(few, wanted), belongs_to(many, wanted)) == ("faiss", "pgvector")
    assert (threshold_of(few, wanted), threshold_of(standing(), wanted)) == (50, 100)
    assert belongs_to(replace(few, backend="faiss", chunks=39), wanted) == "pgvector"


@pytest.mark.parametrize("chunks", [0, 79, 101])
def test_pinned_by_hand_it_stays(chunks: int) -> None:
    """A collection that was put somewhere by hand belongs there, whatever its size."""
    pinned = standing(chunks, "pgvector", pinned_backend="weaviate")
    assert belongs_to(pinned, settings(placement_threshold=100)) == "weaviate"


def test_a_recall_target_of_its_own_counts_also_where_it_is_zero() -> None:
    """A collection's own recall target counts in place of the service's: zero is one too."""
    wanted = settings(recall_target=0.9)
    assert recall_target_of(standing(), wanted) == 0.9
    assert recall_target_of(standing(recall_target=0.0), wanted) == 0.0


@pytest.mark.parametrize(
    ("chunks", "placement", "builds"),
    [
        (49, "automatic", False),
        (50, "automatic", True),
        (100, "automatic", True),
        (101, "automatic", False),
        (101, "advise", True),
        (49, "advise", False),
    ],
)
def test_hnsw_is_built_for_those_that_stay(chunks: int, placement: str, builds: bool) -> None:
    """Neither a small collection gets HNSW nor one that is about to leave; where nobody moves it, it does."""
    wanted = settings(placement_threshold=100, index_min_chunks=50, placement=placement)
    assert builds_hnsw(standing(chunks), wanted) is builds


def test_the_folder_of_indexes(tmp_path: Path) -> None:
    """FAISS indexes lie in the data folder, or where the setting says."""
    assert index_folder(settings(data=str(tmp_path))) == tmp_path / "vector-indexes"
    assert index_folder(settings(data="postgresql://host/db", index_folder=str(tmp_path / "own"))) == tmp_path / "own"


def test_a_database_elsewhere_needs_a_folder_for_indexes() -> None:
    """Where the corpus is not in a folder, the setting that says where indexes go is asked for."""
    with pytest.raises(InvalidSettings, match="RAGSTONE_INDEX_FOLDER") as error:
        index_folder(settings(data="postgresql://host/db"))
    assert error.value.field == "index_folder"


def test_a_backend_of_another_version_is_said_to_be_unknown(database: Database) -> None:
    """A backend that this Ragstone lacks is named, with those that there are."""
    with pytest.raises(IndexUnavailable, match=r"'qdrant'.*pgvector, faiss, weaviate, pinecone"):
        open_index(database, standing(backend="qdrant"), settings())


@pytest.mark.parametrize(
    ("backend", "field"),
    [("weaviate", "weaviate_url"), ("pinecone", "pinecone_api_key"), ("faiss", "index_folder")],
)
def test_what_is_not_configured_is_named(database: Database, backend: str, field: str) -> None:
    """A backend that was not configured names the setting that it lacks, and its environment variable."""
    pytest.importorskip(DRIVERS[backend])
    with pytest.raises(InvalidSettings, match=f"RAGSTONE_{field.upper()}") as error:
        open_index(database, standing(backend=backend), settings(data=database.conninfo))
    assert error.value.field == field


@pytest.mark.parametrize("backend", DRIVERS)
def test_a_driver_that_is_not_installed_is_named(
    database: Database, monkeypatch: pytest.MonkeyPatch, backend: str, stores: Stores
) -> None:
    """Without its driver a backend says which extra to install, and the other backends open all the same."""
    wanted = stores.settings(backend)
    for module in list(sys.modules):
        if module.split(".")[0] == DRIVERS[backend] or module.startswith(f"backends.{backend}"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, DRIVERS[backend], None)
    with pytest.raises(Unsupported, match=rf"pip install 'ragstone\[{backend}\]'"):
        open_index(database, standing(backend=backend), wanted)
    assert open_index(database, standing(backend="pgvector"), wanted).name == "pgvector"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_opens_under_its_name(database: Database, stores: Stores, backend: str) -> None:
    """What is opened is the backend that the collection names, with the identity of its index; nothing is built."""
    index = open_index(database, standing(backend=backend), stores.settings(backend))
    try:
        assert (index.name, index.identity.index_id, index.spec) == (backend, 7, standing().spec)
    finally:
        index.close()
