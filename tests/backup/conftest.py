"""Two corpora: one to back up, and one in a PostgreSQL of its own to restore into. Every test begins with none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import retrieval
from backends.corpus.staging import Loaded, Loader
from ops import backup
from ops.backup import planning, restoring
from retrieval import Ragstone, library
from retrieval.config import Settings
from tests.backup.subject import DIMENSION, DOCUMENTS, names, put
from tests.service.serving import database_of_its_own
from tests.stores import Stores


@pytest.fixture(scope="session")
def settings(stores: Stores) -> Settings:
    """Small chunks, and an index also for small collections, which finds what an exact search finds."""
    return stores.settings(
        "faiss", index_min_chunks=100, ef_search=1_000, chunk_tokens=48, chunk_overlap_tokens=8, move_chunks_per_s=None
    )


@pytest.fixture(scope="session")
def source_url(postgres_url: str) -> Iterator[str]:
    with database_of_its_own(postgres_url, "backup_source") as url:
        yield url


@pytest.fixture(scope="session")
def opened_source(source_url: str, settings: Settings) -> Iterator[Ragstone]:
    with retrieval.open(source_url, settings=settings) as opened:
        yield opened


@pytest.fixture(scope="session")
def opened_elsewhere(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Iterator[Ragstone]:
    with retrieval.open(tmp_path_factory.mktemp("elsewhere") / "data", settings=settings) as opened:
        yield opened


@pytest.fixture
def rag(opened_source: Ragstone) -> Iterator[Ragstone]:
    """The corpus that is backed up."""
    yield opened_source
    clear(opened_source)


@pytest.fixture
def elsewhere(opened_elsewhere: Ragstone) -> Iterator[Ragstone]:
    """A corpus of another PostgreSQL, as after the loss of the first one."""
    yield opened_elsewhere
    clear(opened_elsewhere)


@pytest.fixture
def repo(tmp_path: Path) -> str:
    """A folder for backups that is not there yet."""
    return str(tmp_path / "backups")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is not about waiting: nobody holds a collection open for long by its name."""
    for module in (library, restoring):
        monkeypatch.setattr(module, "COLLECTION_TTL_S", 0.02)


@pytest.fixture
def s3_repo(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A prefix of a bucket in moto's server, which speaks the protocol of S3."""
    boto3 = pytest.importorskip("boto3", reason="needs pip install 'ragstone[dev]'")
    pytest.importorskip("s3fs", reason="needs pip install 'ragstone[s3]'")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "made-up")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up-too")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        bucket = f"vault-{uuid4().hex}"  # moto keeps its buckets as long as the process lives
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}/ragstone/daily"
    finally:
        server.stop()


@pytest.fixture
def own(rag: Ragstone, repo: str, monkeypatch: pytest.MonkeyPatch) -> backup.Backup:
    """A backup of the collection `own`, in ten files."""
    monkeypatch.setattr(planning, "LEAST_ROWS", 30)
    monkeypatch.setattr(planning, "MOST_ROWS", 30)
    put(rag.create_collection("own", dimension=DIMENSION), names(0, DOCUMENTS), seed=1)
    return backup.create(rag, repo)


@pytest.fixture
def files_loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are loaded into a corpus, as long as nobody empties the list."""
    loaded: list[str] = []
    load = Loader.load

    def spy(self: Loader, staged: Any, file: str, batches: Any) -> Loaded:
        done = load(self, staged, file, batches)
        loaded.append(file)
        return done

    monkeypatch.setattr(Loader, "load", spy)
    return loaded


def clear(rag: Ragstone) -> None:
    """Delete every collection."""
    for name in rag.collections():
        rag.delete_collection(name)
