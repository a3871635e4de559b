"""What is searched: embeddings, queries, and a number a row to filter by. Real sets where they are, else made-up ones.

RAGSTONE_BENCH_DATA names a folder that may hold `mnist-784.npz` (arrays `train` and `test`) and `scifact/` with
`minilm_docs.npy` and `minilm_queries.npy`. A file that is not the one whose SHA-256 stands here is refused.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import synthetic
from benchmarks.peers.protocol import Embeddings, Metric, Rows

FOLDER_VARIABLE = "RAGSTONE_BENCH_DATA"
SHA256 = {
    "mnist-784.npz": "e2ea596eeeb17db0df7de8e3c48b898fef0efa81057377489d10ed0f7e455a8b",
    "scifact/minilm_docs.npy": "111b3bcc6060c3530d474716a6e93f24cdebed52fa01dab2e06718ef6cabd199",
    "scifact/minilm_queries.npy": "2b7aa5ced5b3680013e0c0ac9a6f30fb2d0a8e0b2148126f06e4a71026a270de",
}
CHECKED_BYTES = 1 << 24


@dataclass(frozen=True)
class DataSet:
    """Embeddings float32 [n, d], queries float32 [q, d], and numbers int64 [n] that filters look at.

    The numbers are the positions 0 to n - 1 in another order, so that "below n / 100" matches 1 %.
    """

    name: str
    embeddings: Embeddings
    queries: Embeddings
    metric: Metric
    numbers: NDArray[np.int64]
    seed: int

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def where(self) -> str:
        """Name and size, as results and the report show it."""
        return f"{self.name}, {len(self):,} x {self.embeddings.shape[1]}, {self.metric}"

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of all that a truth depends on."""
        sums = hashlib.sha256(self.metric.encode())
        for array in (self.embeddings, self.queries, self.numbers):
            sums.update(repr((array.shape, array.dtype.str)).encode())
            for start in range(0, len(array), synthetic.BLOCK_ROWS):
                sums.update(np.ascontiguousarray(array[start : start + synthetic.BLOCK_ROWS]).data)
        return sums.hexdigest()

    def rows(self) -> Rows:
        """What a peer is given to store."""
        ids = [row_id(row) for row in range(len(self))]
        texts = synthetic.texts(len(self), self.seed)
        return Rows(ids, self.embeddings, texts, self.numbers, self.metric)


def row_id(row: int) -> str:
    """The id under which a row is stored."""
    return f"row-{row:08d}"


def row_of(id_: str) -> int:
    """The row that an id stands for."""
    return int(id_.removeprefix("row-"))


def made_up(rows: int, dimension: int, queries: int, seed: int) -> DataSet:
    """A synthetic set compared by cosine."""
    embeddings = synthetic.embeddings(rows, dimension, seed)
    asked = synthetic.queries(queries, dimension, seed)
    return DataSet("synthetic", embeddings, asked, "cosine", _shuffled(rows, seed), seed)


def related(data: DataSet) -> DataSet:
    """The same rows, but numbered by nearness to the first query, which is how filters and embeddings go together.

    A filter "below n / 100" then matches the nearest 1 % of the rows. The queries are ordered in the same way: the
    first half asks where the filter matches, and the second half where it does not.
    """
    centre = data.queries[0]
    numbers = np.empty(len(data), dtype=np.int64)
    numbers[np.argsort(_distances(data.embeddings, centre), kind="stable")] = np.arange(len(data))
    queries = data.queries[np.argsort(_distances(data.queries, centre), kind="stable")]
    return replace(data, name=f"{data.name}, filter related", numbers=numbers, queries=queries)


def available(queries: int, rows: int | None, seed: int) -> list[DataSet]:
    """The real sets that RAGSTONE_BENCH_DATA holds, of at most so many rows; none where it is not set."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named is None:
        return []
    folder, found = Path(named), []
    for name, read in _READERS.items():
        if all((folder / file).exists() for file in SHA256 if file.startswith(name)):
            documents, asked, metric = read(folder)
            part = documents[:rows].astype(np.float32), asked[:queries].astype(np.float32)
            found.append(DataSet(name, *part, metric, _shuffled(len(part[0]), seed), seed))
    return found


def _mnist(folder: Path) -> tuple[NDArray[np.generic], NDArray[np.generic], Metric]:
    with np.load(_checked(folder, "mnist-784.npz")) as file:
        return file["train"], file["test"], "l2"


def _scifact(folder: Path) -> tuple[NDArray[np.generic], NDArray[np.generic], Metric]:
    documents, queries = (_checked(folder, f"scifact/minilm_{part}.npy") for part in ("docs", "queries"))
    return np.load(documents), np.load(queries), "cosine"


_READERS: dict[str, Callable[[Path], tuple[NDArray[np.generic], NDArray[np.generic], Metric]]] = {
    "mnist-784": _mnist,
    "scifact": _scifact,
}


def _checked(folder: Path, name: str) -> Path:
    sums = hashlib.sha256()
    with (folder / name).open("rb") as file:
        while block := file.read(CHECKED_BYTES):
            sums.update(block)
    if sums.hexdigest() != SHA256[name]:
        raise SystemExit(f"{folder / name} is not the file that is meant: its SHA-256 is {sums.hexdigest()}")
    return folder / name


def _shuffled(rows: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 4]).permutation(rows).astype(np.int64)


def _distances(embeddings: Embeddings, centre: Embeddings) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.linalg.norm(embeddings - centre, axis=1)
    return found
