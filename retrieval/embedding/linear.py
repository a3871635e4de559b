"""The matrix products of a model's layers, in the layout that the processor likes best."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional


class Linear:
    """x W' + b, then GELU where asked. On a CPU the weights are laid out for oneDNN once, not at every product.

    That makes a product with few rows, a single query's, about a third faster. The two operators are those that
    torch's own compiler uses; where they are missing or do not agree, the ordinary ones do the work.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self._bias = bias
        self._gelu = gelu
        self._packed = weight.device.type == "cpu" and _packing_works(weight.dtype)
        self._weight = _pack(weight) if self._packed else weight

    def __call__(self, rows: Tensor) -> Tensor:
        """Return [n, outputs] of [n, inputs], in the dtype of the weights."""
        if self._packed:
            return _packed_product(rows, self._weight, self._bias, self._gelu)
        product = functional.linear(rows, self._weight, self._bias)
        return functional.gelu(product) if self._gelu else product


@cache
def _packing_works(dtype: torch.dtype) -> bool:
    """Try the operators on a small product: they are not part of torch's public interface."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(size, 32, generator=generator).to(dtype) for size in (5, 48))
    bias = torch.zeros(48, dtype=dtype)
    try:
        packed = _packed_product(rows, _pack(weight), bias, gelu=True)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(packed, functional.gelu(functional.linear(rows, weight, bias)), rtol=0.02, atol=0.05)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _packed_product(rows: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    activation, algorithm = ("gelu", "none") if gelu else ("none", "")
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], algorithm)
    return product
