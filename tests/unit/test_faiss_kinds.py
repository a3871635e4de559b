"""Which kind of FAISS index is chosen, and its numbers."""

from pathlib import Path

import pytest

from backends.errors import InvalidSettings
from backends.faiss.kinds import (
    KINDS,
    PQ_BYTES,
    choose_kind,
    kind_for,
    lists_of,
    pq_bytes_of,
    probes_of,
)
from backends.types import IndexSpec
from tests.unit.faiss_indexes import opened

GIB = 1 << 30
SMALL = IndexSpec(dimension=128)
LARGE = IndexSpec(dimension=1024)


@pytest.mark.parametrize(
    ("count", "spec", "memory_bytes", "device", "has_cagra", "kind"),
    [
        (0, SMALL, GIB, "cpu", False, "flat"),
        (9_999, SMALL, GIB, "gpu", True, "flat"),
        (10_000, SMALL, GIB, "cpu", False, "hnsw"),
        (1_000_000, SMALL, 2 * GIB, "cpu", False, "hnsw"),
        (1_000_000, SMALL, GIB // 2, "cpu", False, "ivf_sq8"),
        (1_000_000, LARGE, 4 * GIB, "cpu", False, "ivf_sq8"),
        (1_000_000, LARGE, 16 * GIB, "cpu", False, "hnsw"),
        (1_000_000, SMALL, 4 * GIB, "gpu", False, "flat"),
        (1_000_000, SMALL, 4 * GIB, "gpu", True, "cagra"),
        (50_000, SMALL, 4 * GIB, "gpu", True, "flat"),
        (100_000_000, SMALL, 16 * GIB, "gpu", False, "ivf_pq"),
        (100_000_000, SMALL, 16 * GIB, "gpu", True, "ivf_pq"),
    ],
)
def test_the_rule(count: int, spec: IndexSpec, memory_bytes: int, device: str, has_cagra: bool, kind: str) -> None:
    """Rows, dimension, memory and device decide, as the rule's docstring says."""
    assert choose_kind(count, spec, memory_bytes, device, has_cagra) == kind  # type: ignore[arg-type]


def test_single_precision_takes_more_memory() -> None:
    """A collection that fits as float16 may not as float32."""
    memory_bytes = 2 * 1_000_000 * (128 * 2 + 272)
    assert choose_kind(1_000_000, SMALL, memory_bytes, "cpu") == "hnsw"
    assert choose_kind(1_000_000, IndexSpec(dimension=128, precision="single"), memory_bytes, "cpu") == "ivf_sq8"


def test_a_named_kind_is_taken_as_given() -> None:
    """Whatever the memory; only too few rows to train a quantiser are flat."""
    assert kind_for("hnsw", 10, SMALL, 1, "cpu") == "hnsw"
    assert kind_for("flat", 10_000_000, SMALL, 1, "cpu") == "flat"
    assert kind_for("ivf_pq", 10_000, SMALL, 1, "cpu") == "ivf_pq"
    assert kind_for("ivf_pq", 9_999, SMALL, 1, "cpu") == "flat"


def test_what_is_not_to_be_had_is_refused(tmp_path: Path) -> None:
    """An unknown kind, CAGRA without a GPU, an unknown device: InvalidSettings, which names the setting."""
    for setting, value in (("kind", "annoy"), ("kind", "cagra"), ("device", "tpu")):
        with pytest.raises(InvalidSettings) as refusal:
            opened(tmp_path, **{setting: value})
        assert refusal.value.field == f"faiss_{setting}"


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Device "gpu" without a GPU is InvalidSettings, and never the CPU in silence."""
    monkeypatch.setattr("faiss.get_num_gpus", lambda: 0)
    with pytest.raises(InvalidSettings, match="faiss_device"):
        opened(tmp_path, device="gpu")


def test_lists_can_be_trained_and_are_read_in_part() -> None:
    """Every list has the 39 rows that FAISS asks for, and a search never reads more lists than there are."""
    for count in (10_000, 60_000, 1_000_000, 100_000_000):
        lists = lists_of(count)
        assert lists * 39 <= count
        assert 32 <= probes_of(lists) <= lists
    assert lists_of(1) == probes_of(1) == 1


def test_codes_divide_the_dimension() -> None:
    """The bytes of a code divide every dimension, and are ones that a GPU has."""
    for dimension in range(1, 2_001):
        size = pq_bytes_of(dimension)
        assert dimension % size == 0
        assert size in PQ_BYTES
    assert pq_bytes_of(768) == 96
    assert set(KINDS) == {"flat", "hnsw", "ivf_sq8", "ivf_pq", "cagra"}
