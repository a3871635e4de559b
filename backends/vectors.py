"""Embeddings as they are kept and compared: one place for normalising, rounding, refusing and scoring."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import InvalidEmbedding
from backends.types import Embeddings, IndexSpec, Precision

Scores = NDArray[np.float64]

KEPT: dict[Precision, type[np.floating[Any]]] = {"half": np.float16, "single": np.float32}
LARGEST: dict[Precision, float] = {"half": float(np.finfo(np.float16).max), "single": 1e17}
"""Products of larger values, summed, would leave float32."""
ROWS_AT_ONCE = 256  # stays in the cache


def prepare(values: object, spec: IndexSpec, field: str = "embeddings") -> Embeddings:
    """Check embeddings and bring them to the form in which they are kept.

    Takes anything that makes a float array of shape [n, dimension]. Under cosine each row is normalised in
    float64; then all are rounded to the precision kept ("half" keeps 11 significant bits). Queries go through
    the same door, so that a stored embedding finds itself with score 1. Returns a new float32 [n, dimension];
    the caller's array is left alone. Raises InvalidEmbedding for a wrong shape, for NaN, for infinite values
    and, under cosine, for zero, before as well as after rounding.
    """
    return prepare_kept(values, spec, field).astype(np.float32)


def prepare_one(value: object, spec: IndexSpec, field: str) -> Embeddings:
    """Prepare one embedding: anything that makes a float array of shape [dimension]. Returns float32 [dimension]."""
    try:
        vector = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidEmbedding(field, f"not an array ({error}); needed float32 [{spec.dimension}]") from error
    if vector.dtype.kind not in "fiu":
        raise InvalidEmbedding(field, f"found dtype {vector.dtype}; needed float32 [{spec.dimension}]")
    if vector.shape != (spec.dimension,):
        raise InvalidEmbedding(field, f"found shape {list(vector.shape)}; needed [{spec.dimension}]")
    if (quickly := _prepared_quickly(vector, spec)) is not None:
        return quickly
    try:
        one: Embeddings = prepare(vector[None], spec, field)[0]
    except InvalidEmbedding as error:
        raise InvalidEmbedding(field, error.problem) from error
    return one


def _prepared_quickly(vector: NDArray[Any], spec: IndexSpec) -> Embeddings | None:
    """Do what `prepare` does to one embedding of no unusual size, in few calls; None leaves it to `prepare`."""
    if spec.metric == "cosine":
        exact = vector.astype(np.float64)
        square = float(np.vdot(exact, exact))  # which warns of nothing, in a fifth of the time that warnings take
        if not 1e-8 < square < 1e8:  # nor is NaN
            return None
        exact /= math.sqrt(square)
        return exact.astype(KEPT[spec.precision]).astype(np.float32)
    if not max(vector.max(), -vector.min()) <= LARGEST[spec.precision]:
        return None
    return vector.astype(KEPT[spec.precision]).astype(np.float32)


def prepare_kept(values: object, spec: IndexSpec, field: str = "embeddings") -> NDArray[np.floating[Any]]:
    """Do what `prepare` does, and return the values in the dtype in which they are kept: float16 or float32."""
    matrix = _as_matrix(values, spec.dimension, field)
    prepared = np.empty(matrix.shape, KEPT[spec.precision])
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        prepared[part] = _prepared(matrix[part], spec, field, start)
    return prepared


def exact_scores(query: Embeddings, embeddings: Embeddings, spec: IndexSpec) -> Scores:
    """Score one prepared query [d] against prepared embeddings [n, d] in float64, higher for nearer.

    Cosine similarity, inner product, or minus the Euclidean distance. Rounding leaves a norm slightly off 1,
    so the cosine divides by both norms.
    """
    left, right = query.astype(np.float64), embeddings.astype(np.float64)
    if spec.metric == "l2":
        scores: Scores = -np.sqrt(((right - left) ** 2).sum(axis=1))
        return scores
    products: Scores = right @ left
    if spec.metric == "cosine":
        products = products / (np.linalg.norm(right, axis=1) * np.linalg.norm(left))
    return products


def _as_matrix(values: object, dimension: int, field: str) -> NDArray[Any]:
    try:
        matrix = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise InvalidEmbedding(field, f"not an array ({error}); needed float32 [n, {dimension}]") from error
    if matrix.dtype.kind not in "fiu":
        raise InvalidEmbedding(field, f"found dtype {matrix.dtype}; needed float32 [n, {dimension}]")
    if matrix.ndim != 2 or matrix.shape[1] != dimension:
        raise InvalidEmbedding(field, f"found shape {list(matrix.shape)}; needed [n, {dimension}]")
    return matrix


def _prepared(matrix: NDArray[Any], spec: IndexSpec, field: str, first: int) -> NDArray[np.floating[Any]]:
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        exact = _normalised(matrix.astype(np.float64)) if spec.metric == "cosine" else matrix
        rounded = exact.astype(KEPT[spec.precision])
    largest = _largest(rounded)
    usable = largest <= _largest(np.full((1, 1), LARGEST[spec.precision], rounded.dtype))  # NaN is not
    if spec.metric == "cosine":
        usable &= largest > 0
    if not usable.all():
        row = int(np.flatnonzero(~usable)[0])
        raise _refusal(matrix[row], spec, f"{field}[{first + row}]")
    return rounded


def _largest(rounded: NDArray[np.floating[Any]]) -> NDArray[np.unsignedinteger[Any]]:
    """Return the largest magnitude of each row as its bits without the sign: in their order, NaN beyond infinity.

    Comparing integers takes half the time of comparing magnitudes in half precision. IEEE 754-2019, 5.10.
    """
    bits: type[np.unsignedinteger[Any]] = np.uint16 if rounded.dtype == np.float16 else np.uint32
    magnitudes = rounded.view(bits) & (np.iinfo(bits).max >> 1)
    largest: NDArray[np.unsignedinteger[Any]] = magnitudes.max(axis=1)
    return largest


def _normalised(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    # Scaling by the largest value first keeps the squares of huge and of tiny values in range.
    scaled = matrix / np.abs(matrix).max(axis=1, keepdims=True)
    unit: NDArray[np.float64] = scaled / np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]
    return unit


def _refusal(row: NDArray[Any], spec: IndexSpec, field: str) -> InvalidEmbedding:
    if not np.isfinite(row).all():
        return InvalidEmbedding(field, "found NaN or an infinite value; needed finite numbers")
    if not row.any():
        return InvalidEmbedding(
            field, "found only zeros, which have no direction; needed a non-zero embedding (cosine)"
        )
    limit = LARGEST[spec.precision]
    return InvalidEmbedding(field, f"found a value beyond {limit:.5g}; needed smaller ones, or precision 'single'")
