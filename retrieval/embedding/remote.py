"""Embeddings from any server with OpenAI's API: vLLM, Text Embeddings Inference, and others."""

from collections.abc import Sequence

import numpy as np

from backends.errors import EmbedderUnavailable, TooLarge
from retrieval.embedding.base import Embedder, EmbedderStamp, Embeddings, Kind, Prepared, TokenSpans
from retrieval.embedding.endpoint import EmbeddingsEndpoint
from retrieval.embedding.estimating import estimate_token_spans

TEXTS_PER_REQUEST = 64
MAX_TOKENS = 512
"""What the model reads, where the server does not say: the length of most embedding models."""

SPECIAL_TOKENS = 2
PROBE = "How long are your embeddings?"


class RemoteEmbedder(Embedder):
    """A model on a server. The dimension is learned from a first request, at construction.

    Requests hold at most TEXTS_PER_REQUEST texts, and fewer from then on when the server finds that too many.
    Tokens are estimated, and a text is cut where the estimate reaches what the model reads. What the server
    computes with is not known, so numerics is "remote", and the revision is empty.
    """

    def __init__(self, url: str, model: str, *, api_key: str | None = None, timeout_s: float = 60.0) -> None:
        self._endpoint = EmbeddingsEndpoint(url, model, api_key, timeout_s)
        self._texts_per_request = TEXTS_PER_REQUEST
        try:
            self.max_tokens = self._endpoint.max_tokens() or MAX_TOKENS
            dimension = self._endpoint.embed([PROBE]).shape[1]
        except BaseException:
            self._endpoint.close()
            raise
        self.stamp = EmbedderStamp(
            model=model,
            revision="",
            dimension=dimension,
            normalised=True,
            query_prefix="",
            passage_prefix="",
            numerics="remote",
        )

    def prepare(self, texts: Sequence[str], kind: Kind) -> list[Prepared]:
        return [self._cut(self.prefix(kind) + text) for text in texts]

    def run(self, prepared: Sequence[Prepared]) -> Embeddings:
        embeddings = np.empty((len(prepared), self.stamp.dimension), np.float32)
        start = 0
        while start < len(prepared):
            part = [text.text for text in prepared[start : start + self._texts_per_request]]
            try:
                answered = self._endpoint.embed(part)
            except TooLarge:
                if len(part) == 1:
                    raise
                self._texts_per_request = len(part) // 2
                continue
            if answered.shape[1] != self.stamp.dimension:
                raise EmbedderUnavailable(
                    f"the endpoint's embeddings have {answered.shape[1]} dimensions now, and had "
                    f"{self.stamp.dimension} at first: is another model behind it?"
                )
            embeddings[start : start + len(part)] = answered
            start += len(part)
        return embeddings

    def token_spans(self, text: str) -> TokenSpans:
        return estimate_token_spans(text)

    def close(self) -> None:
        self._endpoint.close()

    def _cut(self, text: str) -> Prepared:
        spans = self.token_spans(text)
        readable = self.max_tokens - SPECIAL_TOKENS
        if len(spans) > readable:
            text = text[: spans[readable - 1, 1]]
        return Prepared(text, min(len(spans) + SPECIAL_TOKENS, self.max_tokens))
