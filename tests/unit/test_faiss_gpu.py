"""The FAISS adapter on a GPU, as far as no GPU is needed: a stand-in answers as a card does, without selectors."""

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.faiss import gpu
from backends.faiss import index as index_module
from backends.faiss.gpu import MAX_HITS, UNKNOWN_FREE_BYTES, OnCard, card_for, free_bytes
from backends.types import Batch, Change, IndexSpec
from tests.unit.faiss_indexes import batch, opened, queries, recall

ROWS = 12_000
SPEC = IndexSpec(dimension=16, metric="l2")


class _StandIn:
    """Keeps what a card keeps, in the form of the CPU; what is asked of it is noted."""

    has_cagra = False

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.trained = 0

    def searches(self, kind: str) -> bool:
        return kind != "hnsw"

    def cloned(self, index: Any) -> Any:
        self.trained += 1
        return index

    def copied_back(self, index: Any) -> Any:
        return index

    def placed(self, kind: Any, index: Any, slices: Any) -> OnCard:
        assert sum(len(part) for part in slices) == index.ntotal or kind != "flat"
        return _Noting(kind, index, self.asked)


class _Noting(OnCard):
    def __init__(self, kind: Any, index: Any, asked: list[int]) -> None:
        super().__init__(kind, index, threading.Lock())
        self._asked = asked

    def search(self, queries: Any, hits: int, effort: int) -> Any:
        assert hits <= MAX_HITS
        self._asked.append(hits)
        return super().search(queries, hits, effort)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> _StandIn:
    made = _StandIn()
    monkeypatch.setattr(index_module, "card_for", lambda device: made)
    monkeypatch.setattr(index_module, "free_bytes", lambda: 1 << 30)
    return made


@pytest.fixture(scope="module")
def rows() -> Batch:
    return batch(range(ROWS), SPEC)


@pytest.mark.parametrize("kind", ["auto", "ivf_sq8"])
def test_what_a_card_cannot_select_is_thinned_out(tmp_path: Path, card: _StandIn, rows: Batch, kind: str) -> None:
    """Dead rows and rows that are not allowed: the card is asked for more, and the answer is full and right."""
    index = opened(tmp_path, SPEC, kind=kind)
    index.build([rows], 1)
    assert index.stats().details["device"] == "gpu"
    assert card.trained == (kind == "ivf_sq8")
    asked = queries(10, SPEC)
    index.apply([Change(sequence=2, upserts=batch([], SPEC), deletes=rows.ids[: ROWS // 4])])
    for allowed in (None, rows.ids[ROWS // 3 :]):
        alive = rows.ids[ROWS // 4 :] if allowed is None else allowed
        found = index.search(asked, 40, allowed=allowed).ids
        assert {len(ids) for ids in found} == {40}
        assert np.isin(np.concatenate(found), alive).all()
        assert recall(found, rows, asked, SPEC, alive) >= 0.95
    assert min(card.asked) > 40
    index.close()


def test_more_hits_than_a_card_gives_come_from_the_cpu(tmp_path: Path, card: _StandIn, rows: Batch) -> None:
    """Past 2,048 hits the form on the CPU answers."""
    index = opened(tmp_path, SPEC)
    index.build([rows], 1)
    assert len(index.search(queries(1, SPEC), MAX_HITS + 1).ids[0]) == MAX_HITS + 1
    assert not card.asked


def test_a_card_without_memory_costs_no_answer(
    tmp_path: Path, card: _StandIn, rows: Batch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a segment does not go on the card, the log says so and the CPU searches it."""

    def full(*args: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(card, "placed", full)
    index = opened(tmp_path, SPEC)
    index.build([rows], 1)
    assert "searched on the CPU: out of memory" in caplog.text
    assert len(index.search(queries(1, SPEC), 10).ids[0]) == 10


def test_it_is_said_once_where_faiss_searches(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a GPU the log says so, plainly, and not for each index again."""
    monkeypatch.setattr("faiss.get_num_gpus", lambda: 0)
    gpu._say_once.cache_clear()
    with caplog.at_level(logging.INFO):
        assert card_for("auto") is card_for("cpu") is None
    assert caplog.messages == ["no GPU: FAISS searches on the CPU"]


def test_free_memory_is_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In MiB for the first card that we may use; without the program, or an answer, a careful guess and a warning."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$1" = --id=3 ] && echo 4096\n')
    program.chmod(0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert free_bytes() == 4 << 30
    assert not caplog.messages
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert free_bytes() == UNKNOWN_FREE_BYTES
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert free_bytes() == UNKNOWN_FREE_BYTES
    assert len(caplog.messages) == 2
