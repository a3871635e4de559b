"""The matrix products of all-MiniLM-L6-v2's layers alone, which are the limit for an embedding on this machine."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.harness.matrix import LAYERS, WIDTH
from retrieval.embedding.linear import Linear

SHAPES = ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
"""Inputs and outputs of a layer's products: query, key and value in one, attention's output, and the two wide ones."""


class LayerProducts:
    """The products of all layers with made-up weights, in the fastest way known here: laid out for oneDNN on a CPU."""

    def __init__(self, numerics: str, device: str) -> None:
        self._dtype: torch.dtype = getattr(torch, numerics)
        self._device = device
        self._layers = [[self._linear(*shape) for shape in SHAPES] for _ in range(LAYERS)]

    @torch.inference_mode()
    def per_s(self, rows: int, clock: Callable[[], float] = time.perf_counter, passes: int = 10) -> float:
        """Operations a second with so many rows (tokens) in each product, by the clock; the fastest pass counts."""
        inputs = {width: self._made(rows, width) for width in (WIDTH, 4 * WIDTH)}
        fastest_s = min([self._pass(inputs, clock) for _ in range(passes + 1)][1:])
        return LAYERS * rows * 24 * WIDTH**2 / fastest_s

    def _pass(self, inputs: dict[int, torch.Tensor], clock: Callable[[], float]) -> float:
        started_s = clock()
        for layer in self._layers:
            for (width, _), product in zip(SHAPES, layer, strict=True):
                product(inputs[width])
        if self._device == "cuda":
            torch.cuda.synchronize()
        return clock() - started_s

    def _linear(self, inputs: int, outputs: int) -> Linear:
        return Linear(self._made(outputs, inputs), self._made(outputs))

    def _made(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape).to(self._device, self._dtype)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: this one's, and those that are started meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
