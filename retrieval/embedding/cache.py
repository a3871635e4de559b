"""The embeddings of the last queries."""

from collections import OrderedDict
from threading import Lock

from retrieval.embedding.base import Embeddings


class QueryCache:
    """Exact text to embedding; the least recently used goes first. Safe for several threads. Size 0 keeps nothing."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[str, Embeddings] = OrderedDict()
        self._lock = Lock()
        self.hits = 0
        self.misses = 0

    def get(self, text: str) -> Embeddings | None:
        """Return the embedding [d] of a query, not to be written to, or None."""
        with self._lock:
            found = self._kept.get(text)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(text)
            return found

    def put(self, text: str, embedding: Embeddings) -> None:
        """Keep a copy of an embedding [d]: the row itself would hold its whole forward pass in memory."""
        if not self._size:
            return
        with self._lock:
            self._kept[text] = embedding.copy()
            self._kept.move_to_end(text)
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)
