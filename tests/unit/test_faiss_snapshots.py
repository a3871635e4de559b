"""Snapshots of the FAISS index: the one before or the one after, whole, or none."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.errors import IndexUnavailable
from backends.faiss import FaissIndex
from backends.types import IndexSpec
from tests.unit.faiss_indexes import IDENTITY, SPEC, batch, change, held, opened, queries, settled


def _made(folder: Path, kind: str = "auto", rows: int = 300) -> FaissIndex:
    """An index with two segments, a delta and dead rows in each, saved."""
    index = opened(folder, kind=kind, delta_rows=50)
    index.build([batch(range(rows))], 1)
    index.apply([change(2, range(50_000, 50_060))])
    settled()
    index.apply([change(3, range(60_000, 60_020), [0, 5, 50_003])])
    index.save()
    return index


def _answers(index: FaissIndex) -> tuple[Any, ...]:
    found = index.search(queries(), 20)
    return held(index), [ids.tolist() for ids in found.ids], [s.tolist() for s in found.scores], found.applied


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf_sq8", "ivf_pq"])
def test_a_restart_goes_on_from_the_snapshot(tmp_path: Path, kind: str) -> None:
    """Another process answers as the one that saved: segments, delta and dead rows."""
    index = _made(tmp_path, kind, rows=12_000)
    again = opened(tmp_path, kind=kind)
    assert _answers(again) == _answers(index)
    assert again.stats() == index.stats()
    assert again.stats().details["segments"] == 2
    assert again.apply([change(4, [7_000_000], [1])]) == 4
    assert again.save() == opened(tmp_path).stats().applied == 4


def test_single_precision_survives(tmp_path: Path) -> None:
    """Embeddings that are kept as float32 come back as they were."""
    spec = IndexSpec(dimension=8, metric="inner_product", precision="single")
    index = opened(tmp_path, spec)
    index.build([batch(range(100), spec)], 1)
    index.apply([change(2, range(200, 230), spec=spec)])
    index.save()
    asked = queries(2, spec)
    again = opened(tmp_path, spec).search(asked, 130)
    for ours, theirs in zip(index.search(asked, 130).scores, again.scores, strict=True):
        assert (ours == theirs).all()


def test_what_is_not_needed_any_more_is_removed(tmp_path: Path) -> None:
    """The folder holds what the manifest names and no more; saving again without a change writes nothing."""
    index = _made(tmp_path)
    (tmp_path / "left-by-a-killed-process.npy").write_text("x")
    index.apply([change(4, [70_000])])
    assert index.save() == 4
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()}
    manifest = (tmp_path / "manifest.json").read_text()
    assert all(path.name in manifest for path in files if path.name != "manifest.json")
    assert index.save() == 4
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.is_file()} == files


def test_damage_is_never_searched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit, a lost end, a missing or exchanged file, anywhere: not ready, with a warning."""
    index = _made(tmp_path / "sound", "hnsw")
    expected = _answers(index)
    index.close()
    files = sorted(path.name for path in (tmp_path / "sound").iterdir() if path.is_file())
    rng = np.random.default_rng(7)
    for name in files:
        for damage in (_flip, _flip, _flip, _cut, _remove, _exchange):
            folder = tmp_path / "damaged"
            shutil.copytree(tmp_path / "sound", folder)
            damage(folder / name, rng)
            caplog.clear()
            broken = opened(folder)
            if broken.stats().ready:
                assert _answers(broken) == expected, (name, damage)
            else:
                assert (damage is _remove and name == "manifest.json") or "rebuilt" in caplog.text, (name, damage)
                assert broken.stats().applied == broken.stats().count == 0
            broken.close()
            shutil.rmtree(folder)


def _flip(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def _cut(path: Path, rng: np.random.Generator) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data))])


def _remove(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


def _exchange(path: Path, rng: np.random.Generator) -> None:
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    shutil.copy(others[rng.integers(len(others))], path)


@pytest.mark.parametrize("field", ["collection_id", "system_identifier", "timeline", "index_id"])
def test_another_index_s_snapshot_is_not_ours(tmp_path: Path, field: str) -> None:
    """Any field of the identity that differs, or of the spec, and the snapshot is not loaded; building replaces it."""
    _made(tmp_path).close()
    foreign = FaissIndex(SPEC, replace(IDENTITY, **{field: 77}), folder=tmp_path)
    assert not foreign.stats().ready
    assert not opened(tmp_path, IndexSpec(dimension=8, metric="inner_product")).stats().ready
    foreign.build([batch([1, 2])], 9)
    assert held(FaissIndex(SPEC, replace(IDENTITY, **{field: 77}), folder=tmp_path)) == [1, 2]


class _Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("what", ["save", "build"])
def test_killed_between_any_two_file_operations(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write, sync or rename is the last: a restart finds the snapshot before or the one after."""
    before = _answers(_made(tmp_path / "sound"))
    seen = set()
    for last in range(200):
        folder = tmp_path / f"killed-{last}"
        shutil.copytree(tmp_path / "sound", folder)
        index = opened(folder)
        index.apply([change(4, [80_000], [1])])
        after = _answers(index)
        with monkeypatch.context() as patch:
            ended = _ends(patch, last, index.save if what == "save" else lambda at=index: at.build([batch([5])], 5))
        index.close()
        again = opened(folder)
        if what == "build" and again.stats().applied == 5:
            assert held(again) == [5]
        else:
            assert _answers(again) == (before if again.stats().applied == 3 else after)
        seen.add(again.stats().applied)
        again.build([batch([6])], 6)  # also over what was left behind
        assert held(opened(folder)) == [6]
        if ended:
            break
    else:
        pytest.fail("it never came to its end")
    assert seen == {3, 4 if what == "save" else 5}
    assert last > 5


def _ends(patch: pytest.MonkeyPatch, last: int, act: Callable[[], object]) -> bool:
    """Act until `last` file operations are done; say whether it came to its end before."""
    left = [last]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise _Killed
            left[0] -= 1
            return real(*args, **options)

        return operation

    for owner, name in ((os, "fsync"), (os, "replace"), (Path, "rename"), (Path, "unlink")):
        patch.setattr(owner, name, counted(getattr(owner, name)))
    patch.setattr("faiss.write_index", counted(__import__("faiss").write_index))
    try:
        act()
    except _Killed:
        return False
    return True


KILLED = """
    import sys
    from pathlib import Path
    from tests.unit.faiss_indexes import batch, change, opened
    index = opened(Path(sys.argv[1]), delta_rows=30)
    index.build([batch(range(100))], 1)
    print("built", flush=True)
    for n in range(2, 10_000):
        index.apply([change(n, range(n * 100, n * 100 + 10), range((n - 1) * 100, (n - 1) * 100 + 10))])
        index.save()
"""


@pytest.mark.parametrize("wait_s", [0.05, 0.3])
def test_a_killed_process_leaves_a_snapshot(tmp_path: Path, wait_s: float) -> None:
    """SIGKILL amid applying, sealing and saving: the next process finds exactly what the number it reads says."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "built\n"
        threading.Event().wait(wait_s)
        process.send_signal(signal.SIGKILL)
    index = opened(tmp_path)
    n = index.stats().applied
    assert index.stats().ready
    expected = set(range(100)) if n == 1 else {*range(100, 100), *range(n * 100, n * 100 + 10), *range(100)}
    assert set(held(index)) == expected


def test_a_reader_follows_the_owner(tmp_path: Path) -> None:
    """Readers that load and reload while the owner saves and removes files always come to a whole snapshot."""
    owner = opened(tmp_path, delta_rows=30)
    owner.build([batch(range(50))], 1)
    faults: list[object] = []

    def follow() -> None:
        reader = opened(tmp_path)
        while not done.is_set():
            reader.reload()
            fresh = opened(tmp_path)
            for index in (reader, fresh):
                applied = index.stats().applied
                if not index.stats().ready or held(index) != [*range(50), *range(1_000, 1_000 + (applied - 1) * 3)]:
                    faults.append(index.stats())

    done = threading.Event()
    threads = [threading.Thread(target=follow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(2, 60):
        owner.apply([change(n, range(1_000 + (n - 2) * 3, 1_000 + (n - 1) * 3))])
        owner.save()
    done.set()
    for thread in threads:
        thread.join()
    owner.close()
    assert not faults
    last = opened(tmp_path)
    assert last.stats().applied == 59


def test_reload_takes_what_is_newer_alone(tmp_path: Path) -> None:
    """A process that is ahead of the snapshot stays where it is; one that is behind, or has none, takes it."""
    behind = opened(tmp_path)
    assert not behind.stats().ready
    owner = _made(tmp_path)
    behind.reload()
    assert behind.stats().applied == 3
    behind.apply([change(4, [90_000])])
    behind.reload()
    assert behind.stats().applied == 4
    owner.apply([change(4, [90_000]), change(5, [], [90_000])])
    owner.save()
    behind.reload()
    assert _answers(behind) == _answers(owner)


def test_dropping_leaves_nothing(tmp_path: Path) -> None:
    """The folder is gone; the index says that it is not ready, may be dropped again, and be built again."""
    index = _made(tmp_path / "it")
    index.drop()
    index.drop()
    assert not (tmp_path / "it").exists()
    assert (index.stats().ready, index.stats().count, index.stats().applied) == (False, 0, 0)
    with pytest.raises(IndexUnavailable):
        index.search(queries(), 1)
    index.build([batch([4])], 8)
    assert held(opened(tmp_path / "it")) == [4]


def test_a_disk_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    """What the disk says comes as IndexUnavailable, and what was there is still searched."""
    index = _made(tmp_path / "it")
    before = _answers(index)
    shutil.rmtree(tmp_path / "it")
    (tmp_path / "it").write_text("a file in the folder's place")
    with pytest.raises(IndexUnavailable, match="cannot be written"):
        index.build([batch([4])], 8)
    assert _answers(index) == before
