"""Making FAISS indexes of each kind from rows, in slices, so that the rows are never held twice."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.faiss.gpu import Card
from backends.faiss.kinds import (
    EF_CONSTRUCTION,
    HNSW_LINKS,
    TRAINING_ROWS_PER_LIST,
    Kind,
    lists_of,
    pq_bytes_of,
)
from backends.faiss.library import faiss
from backends.types import Embeddings, Ids, IndexSpec, Progress

ROWS_AT_ONCE = 4_096
"""Enough to keep every core busy, few enough that a thread that is told to stop does so within seconds."""
SAMPLE_SEED = 20_240_229


@dataclass(frozen=True, slots=True)
class Rows:
    """What an index is made from: ids int64 [n], ascending, and `take(positions)` giving float32 [m, d] of them."""

    ids: Ids
    take: Callable[[Ids], Embeddings]

    def slices(self) -> Iterator[Embeddings]:
        """Give all rows in order, ROWS_AT_ONCE at a time."""
        for start in range(0, len(self.ids), ROWS_AT_ONCE):
            yield self.take(np.arange(start, min(start + ROWS_AT_ONCE, len(self.ids))))

    def sample(self, count: int) -> Embeddings:
        """Give `count` of the rows, or all, drawn evenly."""
        drawn = np.random.default_rng(SAMPLE_SEED).permutation(len(self.ids))[:count]
        return self.take(np.sort(drawn))


def metric_of(spec: IndexSpec) -> int:
    """FAISS's number of the metric; under cosine the embeddings are of length 1, so the inner product is it."""
    return int(faiss.METRIC_L2 if spec.metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def made(rows: Rows, kind: Kind, spec: IndexSpec, card: Card | None, progress: Progress) -> Any:
    """Make an index in its CPU form; `progress` is told of each slice, before the first too, and may raise.

    A GPU trains and adds for the kinds that it searches through quantisers or CAGRA's graph.
    """
    if kind == "cagra" and card is not None:
        return card.made_cagra(np.concatenate(list(rows.slices())), metric_of(spec))
    index = empty(kind, len(rows.ids), spec)
    on_card = card if kind in ("ivf_sq8", "ivf_pq") else None
    building = on_card.cloned(index) if on_card else index
    if not building.is_trained:
        building.train(rows.sample(lists_of(len(rows.ids)) * TRAINING_ROWS_PER_LIST))
    progress(0)
    for part in rows.slices():
        building.add(part)
        progress(len(part))
    return on_card.copied_back(building) if on_card else building


def empty(kind: Kind, count: int, spec: IndexSpec) -> Any:
    """Return an index without rows, sized for `count`.

    With precision "half", flat and HNSW keep float16, which is what the embeddings were rounded to: nothing is
    lost, and on MNIST it was quicker than float32 by a quarter.
    """
    d, metric, half = spec.dimension, metric_of(spec), spec.precision == "half"
    match kind:
        case "flat":
            return faiss.IndexScalarQuantizer(d, _FP16, metric) if half else faiss.IndexFlat(d, metric)
        case "hnsw":
            graph = faiss.IndexHNSWSQ if half else faiss.IndexHNSWFlat
            index = graph(d, *((_FP16,) if half else ()), HNSW_LINKS, metric)
            index.hnsw.efConstruction = EF_CONSTRUCTION
            return index
        case "ivf_sq8":
            lists = lists_of(count)
            return faiss.IndexIVFScalarQuantizer(faiss.IndexFlat(d, metric), d, lists, _SQ8, metric)
        case _:
            lists = lists_of(count)
            return faiss.IndexIVFPQ(faiss.IndexFlat(d, metric), d, lists, pq_bytes_of(d), 8, metric)


_FP16: Any = faiss.ScalarQuantizer.QT_fp16
_SQ8: Any = faiss.ScalarQuantizer.QT_8bit
