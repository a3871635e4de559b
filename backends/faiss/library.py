"""FAISS itself, with limits to what it believes of a file.

The types that come with it lack what its Python layer adds (search parameters by keyword, selectors made from
arrays) and what its GPU wheels have; so to the type checker it is untyped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss as _faiss

faiss: Any = _faiss

LARGEST_LIST_BYTES = 1 << 38
MOST_PARTS = 1 << 24

# FAISS trusts the sizes in a file as far as these go. They hold for the whole process and for any file, so they are
# no tighter than our largest index needs. The files that we read were checked before, by their SHA-256.
faiss.set_deserialization_vector_byte_limit(LARGEST_LIST_BYTES)
faiss.set_deserialization_loop_limit(MOST_PARTS)
faiss.set_deserialization_lattice_r2_limit(1)  # we have no lattice codes


@contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """Let FAISS use at most so many threads for what this thread asks of it: OpenMP's number is each thread's own."""
    before = faiss.omp_get_max_threads()
    if count < before:
        faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
