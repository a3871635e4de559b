"""The chunker, and the text of a chunk as the model reads it."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from backends.errors import InvalidSettings
from retrieval.chunking.boundaries import find_boundaries
from retrieval.chunking.packing import pack
from retrieval.documents import Chunk, Document
from retrieval.embedding.base import TokenSpans

SPECIAL_TOKENS = 2  # that a model puts around a passage
LEAST_TOKENS = 16
LONGEST_TOKEN = 100  # characters; longer ones, often unknown words, count as several
TOKENIZED_AT_ONCE = 65_536  # characters, so that a long document needs no more memory than a short one

_SPACE = re.compile(r"\s")


def passage_text(title: str, text: str) -> str:
    """The text to embed for a chunk: its document's title, a space, and the chunk without the space around it."""
    return f"{title.strip()} {text.strip()}".strip()


class Chunker:
    """Cuts documents into chunks of at most `max_tokens`, the title and the model's special tokens included.

    `token_spans` gives int64 [tokens, 2], where each token of a text stands, as `Embedder.token_spans` does.
    Neighbours share up to `overlap_tokens`, in whole sentences of the same section.
    Raises InvalidSettings. Safe for several threads where `token_spans` is.
    """

    def __init__(self, token_spans: Callable[[str], TokenSpans], max_tokens: int, overlap_tokens: int = 0) -> None:
        if max_tokens < LEAST_TOKENS:
            raise InvalidSettings("chunk_tokens", f"found {max_tokens}; needed at least {LEAST_TOKENS}")
        if not 0 <= overlap_tokens <= max_tokens // 2:
            problem = f"found {overlap_tokens}; needed 0 to {max_tokens // 2}, half of the {max_tokens} of a chunk"
            raise InvalidSettings("chunk_overlap_tokens", problem)
        self._token_spans = token_spans
        self._max_tokens = max_tokens
        self._overlap_tokens = overlap_tokens

    @property
    def stamp(self) -> dict[str, Any]:
        """What decides where chunks begin and end, beside the tokenizer; it changes when they may."""
        return {
            "name": "structure-1",
            "max_tokens": self._max_tokens,
            "overlap_tokens": self._overlap_tokens,
        }

    def chunk(self, document: Document) -> list[Chunk]:
        """Cut a document; each chunk's text is exactly characters `start` to `end` of the document's.

        Together the chunks cover the whole text, starts and ends both ascend, and none is white space alone, so
        that a blank text has none. A text that fits is one chunk.
        """
        text = document.text
        if not text or text.isspace():
            return []
        budget = self._budget(document.title)
        tokens = _counted(self._tokens(text))
        if len(tokens) <= budget:
            return [Chunk(text=text, start=0, end=len(text))]
        spans = pack(find_boundaries(text, tokens), budget, min(self._overlap_tokens, budget // 2))
        return [Chunk(text=text[start:end], start=start, end=end) for start, end in spans]

    def passage_text(self, title: str, text: str) -> str:
        """The text to embed for a chunk: it fits, since a very long title is cut to a quarter of `max_tokens`."""
        return passage_text(self._title(title), text)

    def _budget(self, title: str) -> int:
        """The tokens that are left for a chunk's own text."""
        before_text = f"{self._title(title)} ".lstrip()
        return self._max_tokens - SPECIAL_TOKENS - len(self._token_spans(before_text))

    def _title(self, title: str) -> str:
        tokens = self._token_spans(title)
        longest = self._max_tokens // 4
        return title[: tokens[longest - 1, 1]] if len(tokens) > longest else title

    def _tokens(self, text: str) -> TokenSpans:
        return np.concatenate([self._token_spans(text[start:end]) + start for start, end in _parts(text)])


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """Yield spans of `text` to tokenize one by one; they end at white space, where no token goes across."""
    start = 0
    while start < len(text):
        space = _SPACE.search(text, start + TOKENIZED_AT_ONCE)
        end = space.start() if space else len(text)
        yield start, end
        start = end


def _counted(tokens: TokenSpans) -> TokenSpans:
    """Cut tokens that are longer than any word, such as the one unknown token of a line of base64."""
    pieces = np.maximum(1, -(-(tokens[:, 1] - tokens[:, 0]) // LONGEST_TOKEN))
    starts = np.repeat(tokens[:, 0], pieces)
    nth = np.arange(len(starts)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts += nth * LONGEST_TOKEN
    ends = np.minimum(starts + LONGEST_TOKEN, np.repeat(tokens[:, 1], pieces))
    return np.stack([starts, ends], axis=1)
