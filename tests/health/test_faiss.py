"""FAISS: lists, graphs, deleted rows and files that are not as they should be."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import retrieval
from backends.corpus.collections import identity
from backends.faiss import index as faiss_index
from backends.faiss import kinds, making
from ops.health import faiss_figures as figures
from ops.health import faiss_files
from retrieval import Ragstone
from retrieval.config import load
from retrieval.placement import index_folder
from tests.health.watched import Watched, corpus_of_its_own, drawn, made_in

ROWS = 1_200


@dataclass(frozen=True)
class Place:
    url: str
    folder: Path

    @contextmanager
    def opened(self, kind: str) -> Iterator[Ragstone]:
        settings = load(embedding_model="hashing", index_folder=str(self.folder), faiss_kind=kind)
        with retrieval.open(self.url, settings=settings) as rag:
            yield rag


@pytest.fixture(scope="module")
def place(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with corpus_of_its_own(postgres_url, "health_faiss") as url:
        yield Place(url, tmp_path_factory.mktemp("indexes"))


@contextmanager
def collection(place: Place, kind: str, count: int = 300) -> Iterator[Watched]:
    """A collection that is to go to FAISS, where small ones may be of any kind."""
    with pytest.MonkeyPatch.context() as patch, place.opened(kind) as rag:
        patch.setattr(kinds, "FLAT_BELOW", 100)
        try:
            yield made_in(rag, count=count)
        finally:
            rag.delete_collection("handbook")


def test_one_giant_list(place: Place) -> None:
    """Rows that are all alike fall into one list; without them, and trained anew, the lists are even again."""
    with collection(place, "ivf_sq8", ROWS) as subject:
        alike = drawn(ROWS, 1)
        alike[: ROWS // 2] = alike[0]
        subject.put(ROWS, embeddings=alike)
        subject.move("faiss")
        found = subject.look(figures.faiss_lists)
        assert found["faiss_lists"].level == "crit"
        assert (found["faiss_lists"].value or 0) > 3
        subject.put(ROWS)
        subject.mend(figures.faiss_lists)
        assert subject.level(figures.faiss_lists) == subject.level(figures.faiss_lists, "faiss_empty_lists") == "ok"


def test_lists_without_rows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists that nothing falls into are a warning: a tenth of the rows was all that the others were trained on."""
    with collection(place, "ivf_sq8") as subject, monkeypatch.context() as patch:
        alike = np.repeat(drawn(30, 1), 10, axis=0)
        subject.put(300, embeddings=alike)
        patch.setattr(making, "lists_of", lambda count: 100)
        subject.move("faiss")
        found = subject.look(figures.faiss_lists)
        assert found["faiss_empty_lists"].level == "warn"
        patch.undo()
        subject.put(300)
        subject.mend(figures.faiss_lists, "faiss_empty_lists")
        assert subject.level(figures.faiss_lists, "faiss_empty_lists") == "ok"


def test_lists_trained_on_too_little(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows for each centroid are too few."""
    with collection(place, "ivf_sq8") as subject, monkeypatch.context() as patch:
        patch.setattr(making, "lists_of", lambda count: count // 8)
        subject.move("faiss")
        check = subject.look(figures.faiss_training)["faiss_training"]
        assert (check.level, check.value) == ("warn", pytest.approx(8, abs=0.2))
        patch.undo()
        subject.mend(figures.faiss_training)
        assert subject.level(figures.faiss_training) == "ok"
        assert subject.look(figures.faiss_graph) == {}  # it has no graph


@pytest.mark.parametrize(("name", "value"), [("HNSW_LINKS", 4), ("EF_CONSTRUCTION", 10)])
def test_a_poor_graph(place: Place, monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    """HNSW with few links, or with links that were hardly looked for, is a warning with both numbers."""
    with collection(place, "hnsw") as subject:
        with monkeypatch.context() as patch:
            patch.setattr(making, name, value)
            subject.move("faiss")
        check = subject.look(figures.faiss_graph)["faiss_graph"]
        assert (check.level, str(value) in check.detail) == ("warn", True)
        subject.mend(figures.faiss_graph)
        check = subject.look(figures.faiss_graph)["faiss_graph"]
        assert (check.level, check.detail) == ("ok", "M 32, efConstruction 80")
        assert subject.look(figures.faiss_lists) == subject.look(figures.faiss_training) == {}  # it has no lists


def test_rows_that_are_removed_and_stay(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where compaction stands still, dead rows are a warning and then critical, until the index is built anew."""
    monkeypatch.setattr(faiss_index, "next_job", lambda state, delta_rows: None)
    with collection(place, "flat") as subject:
        subject.move("faiss")
        assert subject.level(figures.faiss_removed) == "ok"
        for deleted, level in ((120, "warn"), (180, "crit")):
            subject.collection.delete(ids=[f"d{number}" for number in range(deleted)])
            subject.collection.wait_until_indexed(30)
            check = subject.look(figures.faiss_removed)["faiss_removed"]
            assert (check.level, check.value) == (level, pytest.approx(deleted / 300, abs=0.001))
        subject.mend(figures.faiss_removed)
        assert subject.look(figures.faiss_removed)["faiss_removed"].value == 0


def truncate(file: Path) -> None:
    put_in_place(file, file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    put_in_place(file, content)


def put_in_place(file: Path, content: bytes | bytearray) -> None:
    """As a copy or a restore of the disk does: whoever has the file mapped keeps what was there."""
    beside = file.with_name("beside")
    beside.write_bytes(content)
    os.replace(beside, file)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated index": lambda folder: truncate(next(folder.glob("*.faiss"))),
    "flipped index": lambda folder: flip(next(folder.glob("*.faiss"))),
    "flipped ids": lambda folder: flip(next(folder.glob("*.ids"))),
    "lost ids": lambda folder: next(folder.glob("*.ids")).unlink(),
    "flipped manifest": lambda folder: flip(folder / "manifest.json"),
    "torn manifest": lambda folder: truncate(folder / "manifest.json"),
    "lost manifest": lambda folder: (folder / "manifest.json").unlink(),
    "lost folder": shutil.rmtree,
}


def test_files_that_are_not_whole(place: Place) -> None:
    """Each kind of damage is critical while the copy in memory serves on; files built anew are whole."""
    with collection(place, "hnsw") as subject:
        subject.move("faiss")
        assert subject.level(figures.faiss_snapshot) == "ok"
        folder = index_folder(subject.rag.settings) / identity(subject.rag.database, subject.state).name
        whole = shutil.copytree(folder, place.folder / "whole")
        for name, spoil in DAMAGES.items():
            spoil(folder)
            check = subject.look(figures.faiss_snapshot)["faiss_snapshot"]
            assert (name, check.level, bool(check.detail)) == (name, "crit", True)
            assert subject.collection.search(drawn(300, 1)[7], 1)[0].id == "d7"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole, folder)
            assert subject.level(figures.faiss_snapshot) == "ok", name
        truncate(next(folder.glob("*.faiss")))
        subject.mend(figures.faiss_snapshot)
        assert subject.level(figures.faiss_snapshot) == "ok"
    shutil.rmtree(whole)


def test_files_are_read_once_a_day(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that follows another reads no file again that is as it was; without time to read, it is not known."""
    with collection(place, "flat") as subject:
        subject.move("faiss")
        monkeypatch.setattr(faiss_files, "_proven", faiss_files._Proven())
        check = subject.look(figures.faiss_snapshot, budget_s=0.0)["faiss_snapshot"]
        assert (check.level, "budget" in check.detail) == ("unknown", True)
        read: list[str] = []
        whole = faiss_files.check
        monkeypatch.setattr(faiss_files, "check", lambda folder, file: (read.append(file.name), whole(folder, file))[1])
        assert [subject.level(figures.faiss_snapshot) for _ in range(3)] == ["ok"] * 3
        assert len(read) == len(set(read)) >= 2
        monkeypatch.setattr(faiss_files, "PROVEN_S", 0.0)
        assert subject.level(figures.faiss_snapshot) == "ok"
        assert len(read) > len(set(read))
