"""A model's own tokenizer: token ids cut to the model's length, and where each token stands in a text."""

import re
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from retrieval.embedding.base import TokenSpans

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT = "\ufffd"


class TextTokenizer:
    """Two copies of one tokenizer, since cutting is a state of it. Safe for several threads: neither changes again."""

    def __init__(self, definition: str, max_tokens: int) -> None:
        self._cutting = Tokenizer.from_str(definition)
        self._cutting.no_padding()
        self._cutting.enable_truncation(max_tokens)
        self._whole = Tokenizer.from_str(definition)
        self._whole.no_padding()
        self._whole.no_truncation()

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids that the model reads, special tokens included."""
        return [encoding.ids for encoding in self._cutting.encode_batch_fast([_encodable(text) for text in texts])]

    def token_spans(self, text: str) -> TokenSpans:
        """Return where each token stands: int64 [tokens, 2] in characters, no special tokens, nothing cut."""
        offsets = self._whole.encode(_encodable(text), add_special_tokens=False).offsets
        return np.array(offsets, np.int64).reshape(-1, 2)


def _encodable(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can bring and UTF-8 cannot hold."""
    return text if text.isascii() else LONE_SURROGATE.sub(REPLACEMENT, text)
