"""How many tokens a text takes in a model whose tokenizer is not at hand."""

import re

_PIECE = re.compile(r"[A-Za-z]{1,4}|[^\S ]+| {2,}|[^\sA-Za-z]")
_WIDE = re.compile(r"[\u0800-\U0010ffff]")


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of `text`, rather too many than too few.

    Four letters count as one token, every digit and sign as one, characters from U+0800 upwards (Asian
    scripts, emoji) as two. Vocabularies of 32,000 tokens and more need about two thirds of it for English
    prose and less than it for code; a much smaller vocabulary can need more.
    """
    return len(_PIECE.findall(text)) + len(_WIDE.findall(text))
