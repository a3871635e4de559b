"""How many tokens a text takes in a model whose tokenizer is not at hand."""

import re

_PIECE = re.compile(r"[A-Za-z]{1,4}|[^\S ]+| {2,}|[^\sA-Za-z]")
_WIDE = re.compile(r"[\u0800-\U0010ffff]")


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of `text`, rather too many than too few.

    Four letters count as one token, every digit and sign as one, characters from U+0800 upwards (Asian
    scripts, emoji) as two. For English prose and for code that is a third more than a vocabulary of 30,000
    tokens was seen to need, and so the safe factor; a vocabulary of a few thousand can need more than the
    estimate for Asian scripts.
    """
    return len(_PIECE.findall(text)) + len(_WIDE.findall(text))
