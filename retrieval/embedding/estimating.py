"""Token counts where the model's tokenizer is elsewhere."""

import re

import numpy as np

from retrieval.embedding.base import TokenSpans

LETTERS_PER_TOKEN = 3
PIECE = re.compile(rf"[A-Za-z]{{1,{LETTERS_PER_TOKEN}}}|\S")
UTF8_BYTES_PER_TOKEN = 2


def estimate_token_spans(text: str) -> TokenSpans:
    """Guess where tokens stand: int64 [tokens, 2] in characters; rather too many than too few.

    Runs of ASCII letters are cut every three letters, every other character that is not white space is a token,
    and one of more than two bytes in UTF-8 counts as two, as byte-level vocabularies do with rare characters.
    English prose gets about 1.5 times its true count. The guess can be too low only for long runs of letters that
    make no words, such as encoded data.
    """
    spans = [span for match in PIECE.finditer(text) for span in [match.span()] * _tokens(match.group())]
    return np.array(spans, np.int64).reshape(-1, 2)


def _tokens(piece: str) -> int:
    return 1 if piece.isascii() else -(-len(piece.encode("utf-8", "surrogatepass")) // UTF8_BYTES_PER_TOKEN)
