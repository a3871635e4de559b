"""An embedder for tests, whose answers can be worked out in one's head."""

import re
from collections.abc import Sequence
from zlib import crc32

import numpy as np

from retrieval.embedding.base import Embedder, EmbedderStamp, Embeddings, Prepared, TokenSpans

MODEL = "hashing"
WORD = re.compile(r"\w+")


class HashingEmbedder(Embedder):
    """A bag of words: each word adds 1 to the component that its hash chooses; the sum is normalised.

    So texts with the same words in any order and case have the same embedding, and the cosine of two texts of
    different words is the share of words that they have in common (where no two words chose the same component).
    A text without words is the first axis. Words are tokens; it reads the first 512.
    """

    max_tokens = 512

    def __init__(self, dimension: int = 64) -> None:
        self.stamp = EmbedderStamp(
            model=MODEL,
            revision="1",
            dimension=dimension,
            normalised=True,
            query_prefix="",
            passage_prefix="",
            numerics="float32",
        )

    def run(self, prepared: Sequence[Prepared]) -> Embeddings:
        sums = np.zeros((len(prepared), self.stamp.dimension))
        for row, text in enumerate(prepared):
            for word in WORD.findall(text.text.lower())[: self.max_tokens]:
                sums[row, self.component(word)] += 1
            if not sums[row].any():
                sums[row, 0] = 1
        embeddings: Embeddings = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
        return embeddings

    def component(self, word: str) -> int:
        """Return the component to which a lower-case word adds 1."""
        return crc32(word.encode("utf-8", "surrogatepass")) % self.stamp.dimension

    def token_spans(self, text: str) -> TokenSpans:
        spans = [match.span() for match in WORD.finditer(text)]
        return np.array(spans, np.int64).reshape(-1, 2)
