"""Embedders for tests of what stands above them."""

from collections.abc import Sequence
from threading import Event, Lock, Semaphore

from retrieval.embedding.base import Embeddings, Kind, Prepared
from retrieval.embedding.hashing import HashingEmbedder


class RecordingEmbedder(HashingEmbedder):
    """The hashing embedder, which notes the texts of each forward pass.

    A pass with a text that contains "poison" raises ValueError; one with more than `fits` texts, MemoryError.
    """

    def __init__(self, fits: int = 1_000_000) -> None:
        super().__init__()
        self.fits = fits
        self.passes: list[list[str]] = []
        self.prepared_texts = 0
        self.closed = 0
        self._counting = Lock()

    def prepare(self, texts: Sequence[str], kind: Kind) -> list[Prepared]:
        with self._counting:
            self.prepared_texts += len(texts)
        return super().prepare(texts, kind)

    def run(self, prepared: Sequence[Prepared]) -> Embeddings:
        self.passes.append([text.text for text in prepared])
        if len(prepared) > self.fits:
            raise MemoryError("the batch does not fit")
        if any("poison" in text.text for text in prepared):
            raise ValueError("poison")
        return super().run(prepared)

    def close(self) -> None:
        self.closed += 1


class HeldEmbedder(RecordingEmbedder):
    """Waits at the start of each pass until the test lets it go on; `started` says that one is waiting."""

    def __init__(self, fits: int = 1_000_000) -> None:
        super().__init__(fits)
        self.started = Semaphore(0)
        self._let_go = Semaphore(0)
        self._free = Event()

    def run(self, prepared: Sequence[Prepared]) -> Embeddings:
        self.started.release()
        while not self._free.is_set() and not self._let_go.acquire(timeout=0.02):
            pass
        return super().run(prepared)

    def let_go(self, passes: int = 1) -> None:
        """Let that many passes run."""
        self._let_go.release(passes)

    def free(self) -> None:
        """Let all passes run from now on."""
        self._free.set()
