"""The Embedder seam: text in, embeddings out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["query", "passage"]
Embeddings = NDArray[np.float32]
TokenSpans = NDArray[np.int64]

AGREEING_NUMERICS = frozenset({"float32", "float16", "bfloat16"})
"""Floating-point arithmetics whose embeddings of one text have a cosine of at least 0.9999 with each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderStamp:
    """What made an embedding. Embeddings whose stamps do not match are never compared with each other.

    `revision` is a digest of the weights where there are weights. `numerics` is the precision of the
    encoder's arithmetic, for example "float32" or "int8-per-channel".
    """

    model: str
    revision: str
    dimension: int
    normalised: bool
    query_prefix: str
    passage_prefix: str
    numerics: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def matches(self, other: "EmbedderStamp") -> bool:
        """Whether embeddings of both may be compared: all is equal, or only the floating-point numerics differ.

        So a collection that was embedded on a GPU in float16 can be queried on a CPU in float32.
        """
        if {self.numerics, other.numerics} <= AGREEING_NUMERICS:
            other = replace(other, numerics=self.numerics)
        return self == other


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text as the model will take it: prefixed, cut to the model's length, its tokens counted.

    `tokens` includes special tokens. `token_ids` is empty where the model's tokenizer is elsewhere.
    """

    text: str
    tokens: int
    token_ids: Sequence[int] = ()


class Embedder(ABC):
    """Turns texts into embeddings. `run` is the one thing that an adapter must do; the batcher stands above.

    `prepare` and `token_spans` are safe to call from any thread. `run` need not be: the batcher calls it from
    one thread.
    """

    stamp: EmbedderStamp
    max_tokens: int
    """Tokens beyond which the model does not read, special tokens included."""

    @abstractmethod
    def run(self, prepared: Sequence[Prepared]) -> Embeddings:
        """Embed prepared texts in their order, in one forward pass.

        Returns float32 [len(prepared), dimension], each row of length 1.
        Raises EmbedderUnavailable where the model cannot be reached, and MemoryError where the batch
        does not fit (the batcher then splits it).
        """

    @abstractmethod
    def token_spans(self, text: str) -> TokenSpans:
        """Return where each token of `text` stands: int64 [tokens, 2], start and end in characters.

        Without special tokens and without truncation. Starts and ends never go back; tokens that are parts of one
        character, as in Hangul, share its span. Exact where the model's tokenizer is at hand, else an estimate
        that is not too low.
        """

    def prepare(self, texts: Sequence[str], kind: Kind) -> list[Prepared]:
        """Make texts ready for `run`. This is where tokenizing happens, in the caller's thread."""
        prefixed = [self.prefix(kind) + text for text in texts]
        return [Prepared(text, min(len(self.token_spans(text)), self.max_tokens)) for text in prefixed]

    def prefix(self, kind: Kind) -> str:
        """Return what the model wants to read before a query or a passage."""
        return self.stamp.query_prefix if kind == "query" else self.stamp.passage_prefix

    def embed(self, texts: Sequence[str], kind: Kind) -> Embeddings:
        """Embed `texts` in their order, all at once: `run` of `prepare`. Float32 [len(texts), dimension]."""
        if not texts:
            return np.empty((0, self.stamp.dimension), np.float32)
        return self.run(self.prepare(texts, kind))

    def close(self) -> None:  # noqa: B027  # an adapter that holds nothing has nothing to give back
        """Give back what is held. Calling it again does nothing."""
