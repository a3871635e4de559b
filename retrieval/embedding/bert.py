"""A BERT encoder without padding: the tokens of all texts lie in one row, and only attention sees single texts.

Most small embedding models are BERTs. Running one here instead of through the usual libraries spares the work on
padding, their time per call, and seconds of import.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from retrieval.embedding.base import Embeddings
from retrieval.embedding.linear import Linear

Affine = tuple[Tensor, Tensor]
"""Weight and bias."""

LONG_TOKENS, TOO_LONG_TOKENS = 64, 320
"""Between these, attention by plain matrix products in bfloat16 takes a quarter less time on a CPU than torch's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BertShape:
    """What must be known beside the weights. `pooling` is "mean" or "cls", which takes the first token."""

    layers: int
    heads: int
    layer_norm_eps: float
    pooling: str

    @classmethod
    def read(cls, config: Mapping[str, Any], pooling: str) -> "BertShape":
        """Read a Transformers `config.json`."""
        return cls(
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            layer_norm_eps=config["layer_norm_eps"],
            pooling=pooling,
        )


class PackedBert:
    """Token ids in, normalised embeddings out.

    Matrix products and attention are computed in `dtype`; what is summed up along the layers stays in float32.
    """

    def __init__(self, weights: Mapping[str, Tensor], shape: BertShape, device: str, dtype: torch.dtype) -> None:
        self._shape = shape
        self._device = torch.device(device)
        self._dtype = dtype
        words = "embeddings.word_embeddings.weight"
        token_type = weights["embeddings.token_type_embeddings.weight"][0]
        self._words = self._float32(weights[words])
        self._positions = self._float32(weights["embeddings.position_embeddings.weight"] + token_type)
        self._norm = self._norm_weights(weights, "embeddings.LayerNorm")
        self._layers = [self._layer(weights, f"encoder.layer.{number}.") for number in range(shape.layers)]
        self.dimension = self._words.shape[1]

    @torch.inference_mode()
    def run(self, texts: Sequence[Sequence[int]]) -> Embeddings:
        """Embed texts given as token ids, special tokens included. Returns float32 [len(texts), dimension]."""
        packing = _Packing([len(ids) for ids in texts], self._device)
        ids = torch.from_numpy(np.concatenate([np.asarray(ids, np.int64) for ids in texts])).to(self._device)
        states = self._normalise(self._words[ids] + self._positions[packing.positions], self._norm)
        for layer in self._layers:
            states = self._run_layer(states, layer, packing)
        pooled = packing.first(states) if self._shape.pooling == "cls" else packing.mean(states)
        embeddings: Embeddings = functional.normalize(pooled, dim=1).cpu().numpy()
        return embeddings

    def _run_layer(self, states: Tensor, layer: "_Layer", packing: "_Packing") -> Tensor:
        attended = self._attend(layer.query_key_value(states.to(self._dtype)), packing)
        states = self._normalise(states + layer.attended(attended), layer.attended_norm)
        narrowed = layer.narrow(layer.widen(states.to(self._dtype)))
        return self._normalise(states + narrowed, layer.narrow_norm)

    def _attend(self, query_key_value: Tensor, packing: "_Packing") -> Tensor:
        """Attend within each text: [tokens, 3 x dimension] to [tokens, dimension].

        On a CPU long texts one after the other, which pads nothing; else all in one grid, which makes fewer calls.
        """
        if self._device.type == "cpu" and packing.longest >= LONG_TOKENS:
            return torch.cat([self._attend_text(text) for text in torch.split(query_key_value, packing.lengths)])
        grid = packing.unpack(query_key_value)
        query, key, value = grid.view(*grid.shape[:2], 3, self._shape.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, packing.mask(self._dtype), scale=1.0)
        return packing.pack(attended.transpose(1, 2).flatten(2))

    def _attend_text(self, query_key_value: Tensor) -> Tensor:
        tokens = len(query_key_value)
        query, key, value = query_key_value.view(tokens, 3, self._shape.heads, -1).permute(1, 2, 0, 3)
        if self._dtype == torch.bfloat16 and LONG_TOKENS <= tokens < TOO_LONG_TOKENS:
            shares = torch.bmm(query, key.transpose(1, 2)).softmax(-1, dtype=torch.float32)
            attended = torch.bmm(shares.to(self._dtype), value)
        else:
            attended = functional.scaled_dot_product_attention(query[None], key[None], value[None], scale=1.0)[0]
        return attended.transpose(0, 1).flatten(1)

    def _normalise(self, states: Tensor, norm: Affine) -> Tensor:
        return functional.layer_norm(states, (self.dimension,), norm[0], norm[1], self._shape.layer_norm_eps)

    def _layer(self, weights: Mapping[str, Tensor], prefix: str) -> "_Layer":
        attention = [f"{prefix}attention.self.{part}" for part in ("query", "key", "value")]
        return _Layer(
            query_key_value=self._linear(_scaled(weights, attention[0], self._shape.heads), attention),
            attended=self._linear(weights, [f"{prefix}attention.output.dense"]),
            attended_norm=self._norm_weights(weights, f"{prefix}attention.output.LayerNorm"),
            widen=self._linear(weights, [f"{prefix}intermediate.dense"], gelu=True),
            narrow=self._linear(weights, [f"{prefix}output.dense"]),
            narrow_norm=self._norm_weights(weights, f"{prefix}output.LayerNorm"),
        )

    def _linear(self, weights: Mapping[str, Tensor], names: Sequence[str], *, gelu: bool = False) -> Linear:
        """Take one product's weights, or several products' as one."""
        weight = torch.cat([weights[f"{name}.weight"] for name in names])
        bias = torch.cat([weights[f"{name}.bias"] for name in names])
        return Linear(weight.to(self._device, self._dtype), bias.to(self._device, self._dtype), gelu=gelu)

    def _norm_weights(self, weights: Mapping[str, Tensor], name: str) -> Affine:
        return self._float32(weights[f"{name}.weight"]), self._float32(weights[f"{name}.bias"])

    def _float32(self, weight: Tensor) -> Tensor:
        return weight.to(self._device, torch.float32)


def _scaled(weights: Mapping[str, Tensor], query: str, heads: int) -> Mapping[str, Tensor]:
    """Divide the query's weight and bias by the root of a head's width, so that attention need not at every text."""
    width = len(weights[f"{query}.bias"]) / heads
    names = (f"{query}.weight", f"{query}.bias")
    return {**weights, **{name: weights[name].float() * width**-0.5 for name in names}}


@dataclass(frozen=True, slots=True)
class _Layer:
    query_key_value: Linear
    attended: Linear
    attended_norm: Affine
    widen: Linear
    narrow: Linear
    narrow_norm: Affine


class _Packing:
    """How texts of different lengths lie in one row of tokens, and the way to a padded grid and back."""

    def __init__(self, lengths: list[int], device: torch.device) -> None:
        self.lengths = lengths
        self.longest = max(lengths)
        self._texts = len(lengths)
        self._lengths = torch.tensor(lengths)
        self._even = min(lengths) == self.longest
        columns = torch.arange(self.longest)
        self._inside = columns < self._lengths[:, None]  # [texts, longest]
        starts = self._lengths.cumsum(0) - self._lengths
        # Where padding stands in the grid, any token will do: nobody looks at it.
        self._to_grid = torch.where(self._inside, starts[:, None] + columns, 0).flatten().to(device)
        from_grid = self._inside.flatten().nonzero()[:, 0]
        self.positions = (from_grid % self.longest).to(device)
        self._from_grid = from_grid.to(device)
        self._starts = starts.to(device)
        self._inside = self._inside.to(device)
        self._lengths = self._lengths.to(device)

    def unpack(self, row: Tensor) -> Tensor:
        """Lay [tokens, width] out as [texts, longest, width]."""
        grid = row if self._even else row.index_select(0, self._to_grid)
        return grid.view(self._texts, self.longest, -1)

    def pack(self, grid: Tensor) -> Tensor:
        """Turn [texts, longest, width] into [tokens, width]."""
        row = grid.flatten(0, 1)
        return row if self._even else row.index_select(0, self._from_grid)

    def mask(self, dtype: torch.dtype) -> Tensor | None:
        """Return what keeps attention off the padding; None where there is none."""
        if self._even:
            return None
        mask = torch.zeros(self._inside.shape, dtype=dtype, device=self._inside.device)
        return mask.masked_fill_(~self._inside, float("-inf"))[:, None, None, :]

    def mean(self, row: Tensor) -> Tensor:
        """Average the tokens of each text: [texts, width]."""
        total = (self.unpack(row) * self._inside[:, :, None]).sum(1)
        return total / self._lengths[:, None]

    def first(self, row: Tensor) -> Tensor:
        """Return the first token of each text: [texts, width]."""
        return row.index_select(0, self._starts)
