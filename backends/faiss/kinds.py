"""Which kind of FAISS index holds how many rows, and its numbers: pure functions."""

import math
from typing import Literal

from backends.errors import InvalidSettings
from backends.types import IndexSpec
from backends.vectors import KEPT

Kind = Literal["flat", "hnsw", "ivf_sq8", "ivf_pq", "cagra"]
Device = Literal["cpu", "gpu"]

KINDS: tuple[Kind, ...] = ("flat", "hnsw", "ivf_sq8", "ivf_pq", "cagra")
LOSSY: frozenset[Kind] = frozenset({"ivf_sq8", "ivf_pq", "cagra"})
"""Kinds from which the embeddings do not come back as they were: they are kept in a file beside."""
FLAT_BELOW = 10_000
"""Rows that one core compares in under a millisecond; also the fewest that train 256 centroids, at 39 each."""
CAGRA_FROM = 100_000
MEMORY_SHARE = 0.5
"""What an index may take of the memory; the rest is for the build, the corpus and everyone else."""
HNSW_LINKS = 32
EF_CONSTRUCTION = 80
CAGRA_LINKS = 64
TRAINING_ROWS_PER_LIST = 40
MAX_LISTS = 65_536
MIN_PROBES = 32
PQ_BYTES = (96, 64, 56, 48, 40, 32, 28, 24, 20, 16, 12, 8, 4, 3, 2, 1)
"""Bytes per code that FAISS has on a GPU too: https://github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU"""


def choose_kind(count: int, spec: IndexSpec, memory_bytes: int, device: Device, has_cagra: bool = False) -> Kind:
    """Choose the kind for `count` rows where `memory_bytes` (of the machine, or free on the card) are there.

    Flat below FLAT_BELOW rows: exact, and quick enough. Then on a CPU HNSW, the quickest at high recall, while its
    vectors and graph fit in MEMORY_SHARE of the memory; beyond, IVF with one byte for each dimension. On a GPU CAGRA
    from CAGRA_FROM rows where the wheel has it and vectors (float32 there) and graph fit; else flat in float16 while
    that fits; beyond, IVF with product quantisation.

    Sources: https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index (HNSW takes the vector
    and 2 M links of 4 bytes a row) and https://docs.rapids.ai/api/cuvs/stable/ for CAGRA.
    """
    if count < FLAT_BELOW:
        return "flat"
    limit = memory_bytes * MEMORY_SHARE
    if device == "cpu":
        return "hnsw" if count * hnsw_bytes_per_row(spec) <= limit else "ivf_sq8"
    if has_cagra and count >= CAGRA_FROM and count * 4 * (spec.dimension + CAGRA_LINKS) <= limit:
        return "cagra"
    return "flat" if count * 2 * spec.dimension <= limit else "ivf_pq"


def kind_for(
    named: str, count: int, spec: IndexSpec, memory_bytes: int, device: Device, has_cagra: bool = False
) -> Kind:
    """Take an operator's kind as it is named, or choose one for "auto".

    Fewer rows than FLAT_BELOW cannot train the quantisers of IVF, nor fill the graph of CAGRA: they are flat.
    """
    if named == "auto":
        return choose_kind(count, spec, memory_bytes, device, has_cagra)
    kind = check_kind(named, device, has_cagra)
    return "flat" if kind in LOSSY and count < FLAT_BELOW else kind


def check_kind(named: str, device: Device, has_cagra: bool) -> Kind:
    """Refuse a kind that is not known, or not to be had here: raises InvalidSettings."""
    kind = {str(kind): kind for kind in KINDS}.get(named)
    if kind is None:
        raise InvalidSettings("faiss_kind", f"found {named!r}; needed auto or one of {', '.join(KINDS)}")
    if kind == "cagra" and not (device == "gpu" and has_cagra):
        raise InvalidSettings("faiss_kind", "'cagra' needs a GPU and the wheel faiss-gpu-cuvs; take 'auto' without")
    return kind


def hnsw_bytes_per_row(spec: IndexSpec) -> int:
    """What HNSW takes for a row: the vector, twice HNSW_LINKS links of 4 bytes, 8 bytes each for id and offset."""
    return spec.dimension * KEPT[spec.precision]().itemsize + 2 * HNSW_LINKS * 4 + 16


def lists_of(count: int) -> int:
    """How many inverted lists divide `count` rows: 4 sqrt(n), if each gets the 39 rows that its training needs."""
    return max(1, min(int(4 * math.sqrt(count)), count // TRAINING_ROWS_PER_LIST, MAX_LISTS))


def probes_of(lists: int) -> int:
    """How many lists a search reads by default: 2 sqrt(lists), at least MIN_PROBES.

    Measured with 40 candidates, scored again: recall@10 0.999 on MNIST (979 lists), 0.968 on SciFact (132).
    """
    return min(lists, max(MIN_PROBES, int(2 * math.sqrt(lists))))


def pq_bytes_of(dimension: int) -> int:
    """How many bytes product quantisation keeps of a row: the most that divide it into parts of 4 values or more."""
    return next((size for size in PQ_BYTES if dimension % size == 0 and size * 4 <= dimension), 1)
