"""Placeholder until the real one lands."""
from collections.abc import Callable
from typing import Any

from retrieval.documents import Chunk, Document
from retrieval.embedding.base import TokenSpans


def passage_text(title: str, text: str) -> str:
    return f"{title} {text.strip()}" if title else text.strip()

class Chunker:
    def __init__(self, token_spans: Callable[[str], TokenSpans], max_tokens: int, overlap_tokens: int) -> None:
        self._spans, self._max = token_spans, max_tokens
        self.stamp: dict[str, Any] = {"name": "placeholder", "max_tokens": max_tokens, "overlap_tokens": overlap_tokens}
    def chunk(self, document: Document) -> list[Chunk]:
        text = document.text
        spans = self._spans(text)
        cuts = [0, *[int(spans[i][0]) for i in range(self._max - 40, len(spans), self._max - 40)], len(text)]
        return [Chunk(text=text[a:b], start=a, end=b) for a, b in zip(cuts, cuts[1:]) if text[a:b].strip()]
