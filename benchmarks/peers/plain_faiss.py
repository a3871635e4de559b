"""FAISS's HNSW alone, with half precision as ours: row numbers and nothing fetched, which is the limit for an index.

Its graph is made as our adapter makes one, so that at the same effort both compare as many rows, and recall is the
same: what is left between them is what the adapter adds.
"""

import functools
from typing import Any, ClassVar

import faiss as _faiss
import numpy as np

from backends.faiss.kinds import EF_CONSTRUCTION, HNSW_LINKS
from benchmarks.peers.protocol import Below, Embeddings, Peer, Place, Rows

faiss: Any = _faiss  # its types lack what its Python layer adds
DEFAULT_EFFORT = 40
THREADS = faiss.omp_get_max_threads()


class PlainFaiss(Peer):
    """An index in this process; ids are looked up in a list. Texts and metadata are not its business."""

    name = "plain_faiss"
    distributions: ClassVar[tuple[str, ...]] = ("faiss-cpu",)
    has_batches = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._normalised = False
        self._ids: list[str] = []
        self._numbers = np.empty(0, dtype=np.int64)
        self._index: Any = None

    def load(self, rows: Rows) -> None:
        """Build the graph over all rows."""
        self._ids, self._numbers = rows.ids, rows.numbers
        self._normalised = rows.metric == "cosine"
        metric = faiss.METRIC_INNER_PRODUCT if self._normalised else faiss.METRIC_L2
        index = faiss.IndexHNSWSQ(rows.dimension, faiss.ScalarQuantizer.QT_fp16, HNSW_LINKS, metric)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        embeddings = self.shaped(rows.embeddings)
        index.train(embeddings)
        index.add(embeddings)
        self._index = index

    def search(self, embedding: Embeddings, top_k: int, effort: int | None, below: Below | None) -> list[str]:
        """Search with a bitmap of the rows that match, where there is a filter."""
        selector = None if below is None else faiss.IDSelectorBatch(np.flatnonzero(self._numbers < below.bound))
        return self._found(embedding[None], top_k, effort, selector)[0]

    def search_many(self, embeddings: Embeddings, top_k: int, effort: int | None) -> list[list[str]]:
        """Search a batch in one call, on as many threads as FAISS likes."""
        return self._found(embeddings, top_k, effort, None)

    def _found(self, queries: Embeddings, top_k: int, effort: int | None, selector: Any) -> list[list[str]]:
        """FAISS shares out queries, never one query: a team of threads for one is slower than none."""
        faiss.omp_set_num_threads(min(len(queries), THREADS))
        parameters = _walking(max(effort or DEFAULT_EFFORT, top_k))
        if selector is not None:
            parameters = faiss.SearchParametersHNSW(efSearch=parameters.efSearch, sel=selector)
        _, rows = self._index.search(queries, top_k, params=parameters)
        return [[self._ids[row] for row in found if row >= 0] for found in rows.tolist()]

    def shaped(self, queries: Embeddings) -> Embeddings:
        """Bring embeddings to length 1 for cosine: FAISS has the inner product alone."""
        if not self._normalised:
            return np.ascontiguousarray(queries, dtype=np.float32)
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        shaped: Embeddings = (queries / lengths).astype(np.float32)
        return shaped

    def size_bytes(self) -> int:
        """The index as FAISS would write it to a file, which is what it takes in memory."""
        return int(faiss.serialize_index(self._index).nbytes)


@functools.cache
def _walking(effort: int) -> Any:
    return faiss.SearchParametersHNSW(efSearch=effort)


PEER = PlainFaiss
