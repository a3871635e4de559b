"""How many tokens a text takes in a model whose tokenizer is not at hand.

Counted on bytes, in a handful of passes of C: this runs before the first word of every answer.
"""

import math
import string

_KIND = bytearray(b"." * 256)
"""What each byte of UTF-8 counts as: a letter, a space, other white space, a wide character, or a sign."""
for _byte in string.ascii_letters.encode():
    _KIND[_byte] = ord("a")
for _byte in b"\t\n\v\f\r\x1c\x1d\x1e\x1f":
    _KIND[_byte] = ord("\n")
for _byte in range(0xE0, 0x100):  # the first byte of a character from U+0800 upwards
    _KIND[_byte] = ord("w")
_KIND[ord(" ")] = ord(" ")
_NOT_FIRST = bytes(range(0x80, 0xC0))


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of `text`, rather too many than too few.

    Four letters count as one token, every digit and sign as one, characters from U+0800 upwards (Asian
    scripts, emoji) as two. For English prose and for code that is a third more than a vocabulary of 30,000
    tokens was seen to need, and so the safe factor; a vocabulary of a few thousand can need more than the
    estimate for Asian scripts.
    """
    kinds = _kinds(text)
    signs = kinds.count(b".") + 2 * kinds.count(b"w")
    return _word_pieces(kinds) + signs + _runs(kinds, b"\n", shortest=1) + _runs(kinds, b" ", shortest=2)


def most_tokens(text: str, word_piece_tokens: float | None) -> int:
    """Return what `text` takes at most: a token for each byte of UTF-8, for no tokenizer takes more.

    `word_piece_tokens` is the most that four letters were seen to take, with the space before them; None for unknown.
    """
    size_bytes = len(text.encode("utf-8", "surrogatepass"))
    if word_piece_tokens is None:
        return size_bytes
    kinds = _kinds(text)
    word_bytes = kinds.count(b"a") + kinds.count(b" a")
    return min(size_bytes, size_bytes - word_bytes + math.ceil(_word_pieces(kinds) * word_piece_tokens))


def _kinds(text: str) -> bytes:
    """Return one byte for each character, which says its kind."""
    return text.encode("utf-8", "surrogatepass").translate(_KIND, _NOT_FIRST)


def _word_pieces(kinds: bytes) -> int:
    """Count runs of letters, those of more than four once more for each four."""
    fours = kinds.replace(b"aaaa", b"4")
    rests = fours.replace(b"aaa", b"a").replace(b"aa", b"a")
    return fours.count(b"4") + rests.count(b"a")


def _runs(kinds: bytes, kind: bytes, *, shortest: int) -> int:
    """Count the runs of a kind that are that long or longer."""
    run = kind * shortest
    while run + kind in kinds:
        kinds = kinds.replace(run + kind, run)
    return kinds.count(run)
