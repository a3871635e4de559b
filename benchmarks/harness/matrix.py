"""How many operations an embedding is, and what share of the machine's matrix rate `benchmarks.batcher` found."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.harness.results import figure

Json = dict[str, Any]
SHARE = "share of matrix rate: "
LAYERS, WIDTH = 6, 384
"""Of all-MiniLM-L6-v2."""


def operations(tokens: int) -> int:
    """Multiplications and additions in the layers for one text of so many tokens, special ones included.

    A token meets 12 x width^2 weights in each layer (3 + 1 + 4 + 4 times width^2), and each of them costs two
    operations; attention's two products with all tokens of the text are 4 x tokens x width:

        layers x tokens x (24 x width^2 + 4 x tokens x width)

    That is 21.2 million a token, and for attention in a text of 120 another 1.1. Norms, softmax and GELU do not count.
    """
    return LAYERS * tokens * (24 * WIDTH**2 + 4 * tokens * WIDTH)


def shares(found: Sequence[Json]) -> Iterator[Json]:
    """A figure of each share that `benchmarks.batcher` printed."""
    for one in found:
        if one.get("what", "").startswith(SHARE):
            spread = {name: one[name] for name in ("lowest", "highest")}
            yield figure("embedding.share_of_matrix_rate", one["median"], one["what"].removeprefix(SHARE), **spread)
