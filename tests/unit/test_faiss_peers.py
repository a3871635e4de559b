"""The peers of the benchmarks that are FAISS alone: they answer alike, or their times could not be compared."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.faiss_adapter import FaissAdapter
from benchmarks.peers.plain_faiss import PlainFaiss
from benchmarks.peers.protocol import Metric, Peer, Place, Rows

ROWS = 2_000
QUERIES = 40
EFFORT = 300
"""So much that the graph leads to all of the nearest."""


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("kind", [PlainFaiss, FaissAdapter])
def test_queries_find_the_nearest_rows_one_by_one_and_together(
    kind: type[Peer], metric: Metric, tmp_path: Path
) -> None:
    """Rows and queries of any length, cosine or Euclidean, brought into the peer's form before."""
    drawn = np.random.default_rng(3)
    embeddings = drawn.standard_normal((ROWS, 16)).astype(np.float32) * drawn.uniform(0.5, 2, (ROWS, 1))
    queries = drawn.standard_normal((QUERIES, 16)).astype(np.float32) * 3
    ids = [f"row {row}" for row in range(ROWS)]
    peer = kind(Place(None, tmp_path))
    peer.load(Rows(ids, embeddings.astype(np.float32), ids, np.arange(ROWS), metric))
    shaped = peer.shaped(queries)
    alone = [list(peer.search(query, 10, EFFORT, None)) for query in shaped]
    assert [list(found) for found in peer.search_many(shaped, 10, EFFORT)] == alone
    found = np.array([[int(id_.split()[1]) for id_ in one] for one in alone])
    assert [len(np.intersect1d(*pair)) for pair in zip(found, _nearest(embeddings, queries, metric), strict=True)] == (
        pytest.approx([10] * QUERIES, abs=1)  # half precision may take the eleventh for the tenth
    )
    peer.close()


def _nearest(embeddings: np.ndarray, queries: np.ndarray, metric: Metric) -> np.ndarray:
    if metric == "cosine":
        return np.argsort(-(queries @ embeddings.T) / np.linalg.norm(embeddings, axis=1), axis=1)[:, :10]
    return np.argsort(np.linalg.norm(queries[:, None] - embeddings, axis=2), axis=1)[:, :10]
