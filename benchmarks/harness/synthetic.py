"""Made-up embeddings that resemble those of texts, and texts to go with them: the same for the same seed and row.

Topics have subtopics, of sizes as uneven as in real collections (Zipf's law); within a subtopic the points lie near a
plane of few dimensions, since real embeddings have far fewer dimensions than components, with a little noise in all.
Everything is made in blocks, so that a larger set begins with the rows of a smaller one, and any size fits the memory.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.protocol import Embeddings

BLOCK_ROWS = 10_000
TOPICS = 40
SUBTOPICS = 25
PLANE_DIMENSIONS = 20
TOPIC_SPREAD = 1.0
SUBTOPIC_SPREAD = 0.6
PLANE_SPREAD = 0.8
NOISE_SPREAD = 0.25
WORDS = 40
VOCABULARY = 4_000


class Clusters:
    """The topics of one seed, from which rows and queries are drawn."""

    def __init__(self, dimension: int, seed: int) -> None:
        drawn = np.random.default_rng([seed, 0])
        scale = 1 / np.sqrt(dimension)
        topics = drawn.standard_normal((TOPICS, dimension)) * TOPIC_SPREAD * scale
        nearby = drawn.standard_normal((TOPICS, SUBTOPICS, dimension)) * SUBTOPIC_SPREAD * scale
        self._centres = (topics[:, None] + nearby).reshape(-1, dimension).astype(np.float32)
        planes = drawn.standard_normal((TOPICS, PLANE_DIMENSIONS, dimension)) * PLANE_SPREAD * scale
        self._planes = (planes / np.sqrt(PLANE_DIMENSIONS)).astype(np.float32)
        self._noise = np.float32(NOISE_SPREAD * scale)
        weights = 1 / np.arange(1, len(self._centres) + 1)
        self._shares = drawn.permutation(weights / weights.sum())
        self._seed = seed

    def block(self, number: int, rows: int) -> Embeddings:
        """Rows of one block, float32 [rows, d]; number -1 and below are for queries."""
        drawn = np.random.default_rng([self._seed, 1, number + 1_000_000])
        at = drawn.choice(len(self._centres), rows, p=self._shares)
        along = drawn.standard_normal((rows, PLANE_DIMENSIONS), dtype=np.float32)
        points = self._centres[at]
        for topic in range(TOPICS):
            of_topic = at // SUBTOPICS == topic
            points[of_topic] += along[of_topic] @ self._planes[topic]
        points += self._noise * drawn.standard_normal(points.shape, dtype=np.float32)
        unit: Embeddings = points / np.linalg.norm(points, axis=1, keepdims=True)
        return unit


def embeddings(rows: int, dimension: int, seed: int) -> Embeddings:
    """The first `rows` of the set of this seed, float32 [rows, d], each of length 1."""
    clusters = Clusters(dimension, seed)
    made = np.empty((rows, dimension), dtype=np.float32)
    for start in range(0, rows, BLOCK_ROWS):
        block = clusters.block(start // BLOCK_ROWS, BLOCK_ROWS)
        made[start : start + BLOCK_ROWS] = block[: rows - start]
    return made


def queries(count: int, dimension: int, seed: int) -> Embeddings:
    """Queries from the same topics, none of them a row, float32 [count, d]."""
    return Clusters(dimension, seed).block(-1, count)


def texts(rows: int, seed: int) -> list[str]:
    """One passage a row, about 280 characters."""
    return [text for block in _text_blocks(rows, seed) for text in block]


def _text_blocks(rows: int, seed: int) -> Iterator[list[str]]:
    drawn = np.random.default_rng([seed, 2])
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(letters[drawn.integers(0, 26, length)]) for length in drawn.integers(2, 11, VOCABULARY)]
    for start in range(0, rows, BLOCK_ROWS):
        chosen: NDArray[np.int64] = np.random.default_rng([seed, 3, start]).integers(0, VOCABULARY, (BLOCK_ROWS, WORDS))
        yield [" ".join(words[word] for word in row) for row in chosen[: rows - start].tolist()]
