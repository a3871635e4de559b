"""Batches of unknown number, put in a file so that they can be counted, sorted and read again in slices."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from backends.faiss.making import Rows
from backends.types import Batch, Embeddings, Ids, IndexSpec
from backends.vectors import KEPT


@contextmanager
def spooled(batches: Iterable[Batch], folder: Path, spec: IndexSpec) -> Iterator[Rows]:
    """Write the batches to a file, in the precision in which they are kept (they were rounded to it), and map it."""
    kept = KEPT[spec.precision]
    path = folder / "spool"
    ids = [np.empty(0, np.int64)]
    with path.open("wb") as file:
        for batch in batches:
            ids.append(batch.ids)
            file.write(batch.embeddings.astype(kept).data)
    yield _mapped(path, np.concatenate(ids), kept, spec.dimension)
    path.unlink()


def _mapped(path: Path, ids: Ids, kept: type[np.floating[Any]], dimension: int) -> Rows:
    if not len(ids):  # an empty file cannot be mapped
        return Rows(ids, lambda positions: np.empty((len(positions), dimension), np.float32))
    vectors = np.memmap(path, kept, mode="r", shape=(len(ids), dimension))
    order = np.argsort(ids)

    def take(positions: Ids) -> Embeddings:
        return vectors[order[positions]].astype(np.float32)

    return Rows(ids[order], take)
