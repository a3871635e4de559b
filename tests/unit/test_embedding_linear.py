"""The layers' matrix products, packed and plain."""

import pytest
import torch
from torch.nn import functional

from retrieval.embedding import linear
from retrieval.embedding.linear import Linear


@pytest.fixture
def unpacked(monkeypatch):
    """A torch whose packed product is not there any more."""

    def missing(*_, **__):
        raise RuntimeError("no such operator")

    linear._packing_works.cache_clear()
    monkeypatch.setattr(linear, "_packed_product", missing)
    yield
    linear._packing_works.cache_clear()


def make_numbers(rows):
    generator = torch.Generator().manual_seed(rows)
    return (torch.randn(size, generator=generator) for size in [(rows, 24), (40, 24), (40,)])


@pytest.mark.parametrize("rows", [1, 20, 300])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_the_product_is_that_of_torch(rows, gelu, dtype, tolerance):
    """However the weights are laid out, the result is x W' + b, then GELU where asked."""
    values, weight, bias = make_numbers(rows)
    plain = functional.linear(values, weight, bias)
    product = Linear(weight.to(dtype), bias.to(dtype), gelu=gelu)(values.to(dtype))
    assert product.dtype == dtype
    torch.testing.assert_close(product.float(), functional.gelu(plain) if gelu else plain, atol=tolerance, rtol=0.02)


@pytest.mark.parametrize("gelu", [False, True])
def test_without_the_packed_operators_the_plain_ones_work(unpacked, gelu):
    """A torch that dropped its internal operators costs speed, not correctness."""
    values, weight, bias = make_numbers(20)
    plain = functional.linear(values, weight, bias)
    product = Linear(weight, bias, gelu=gelu)(values)
    torch.testing.assert_close(product, functional.gelu(plain) if gelu else plain)


def test_packed_operators_that_err_are_not_used(unpacked, monkeypatch):
    """Operators that give other numbers are found out by a small product before any weights are packed."""
    monkeypatch.setattr(linear, "_packed_product", lambda rows, *_, **__: torch.zeros(len(rows), 48))
    assert not linear._packing_works(torch.float32)
