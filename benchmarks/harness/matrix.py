"""What share of the machine's matrix rate the embedding of passages comes to, by what `benchmarks.batcher` found."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.harness.results import figure

Json = dict[str, Any]
SIDE = 2_048
PRODUCTS = 4
TRIES = 5
LAYERS, WIDTH = 6, 384
WEIGHTS = LAYERS * 12 * WIDTH**2
"""Of all-MiniLM-L6-v2's layers: 4 square matrices for attention and 2 of width x 4 width; 2 operations a token each."""
PASSAGE_TOKENS = 120


def shares(found: Sequence[Json]) -> Iterator[Json]:
    """The share of the rate that large products reach in the model's own numerics, and beside single precision."""
    numerics = next((one["numerics"] for one in found if "numerics" in one), None)
    passages = next((one["median"] for one in found if one.get("what") == f"passages_{PASSAGE_TOKENS}_per_s"), None)
    if numerics is None or passages is None:
        return
    used = 2 * WEIGHTS * PASSAGE_TOKENS * passages
    for name in dict.fromkeys((numerics, "float32")):
        rate = matrix_rate(name)
        where = f"passages of {PASSAGE_TOKENS} tokens in {numerics}, beside {SIDE} x {SIDE} in {name}"
        more = {"gflop_per_s": round(used / 1e9, 1), "matrix_gflop_per_s": round(rate / 1e9, 1)}
        yield figure("embedding.share_of_matrix_rate", round(used / rate, 4), where, **more)


def matrix_rate(numerics: str) -> float:
    """The most operations a second that torch's product of two large square matrices reaches here."""
    import torch

    left, right = (torch.randn(SIDE, SIDE, dtype=getattr(torch, numerics)) for _ in range(2))
    took_s = []
    for _ in range(TRIES + 1):
        started_s = time.perf_counter()
        for _ in range(PRODUCTS):
            left @ right
        took_s.append(time.perf_counter() - started_s)
    return PRODUCTS * 2 * SIDE**3 / min(took_s[1:])
