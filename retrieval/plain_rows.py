"""Whether rows are plain, as nearly all are: told of many rows at once, which takes a tenth of the time.

Each function refuses nothing. Where it says no, the careful checks decide row by row and name what is wrong.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import InvalidDocument
from backends.filters import MAX_METADATA_BYTES, check_metadata
from backends.types import IndexSpec
from backends.vectors import LARGEST, ROWS_AT_ONCE

UTF8_BYTES = 4
"""A character has no more."""
LARGEST_INTEGER = 10**308
SQUARES = 1e-8, 1e8
"""Between these the squared length of an embedding is neither lost to rounding nor near the end of any precision."""

_SCALARS = {str, int, float, bool, type(None)}
# JSON within strings has no raw line ends, and flat objects no braces but their own: they part the objects again.
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",\n", ":")).encode


def are_texts(values: Sequence[object], max_bytes: int | None = None) -> bool:
    """Whether all are strings that PostgreSQL keeps; with `max_bytes`, of 1 to so many bytes for certain."""
    if set(map(type, values)) != {str}:
        return False
    texts: Sequence[str] = values  # type: ignore[assignment]  # as just seen
    sizes = set(map(len, texts))
    if max_bytes is not None and not 1 <= min(sizes) <= max(sizes) <= max_bytes // UTF8_BYTES:
        return False
    return _are_kept(texts)


def flat_metadata(metadata: Sequence[object]) -> list[str] | None:
    """Return each as JSON text, where all are objects of scalars that the corpus keeps."""
    if set(map(type, metadata)) != {dict}:
        return None
    objects: Sequence[dict[str, Any]] = metadata  # type: ignore[assignment]  # as just seen
    if not _are_keys(set(chain.from_iterable(objects))) or not _are_values(objects):
        return None
    try:
        texts = _ENCODE(objects)[1:-1].replace("},\n{", "}\n\n{").split("\n\n")
    except ValueError:  # NaN, or an integer of thousands of digits
        return None
    return texts if max(map(len, texts)) * UTF8_BYTES <= MAX_METADATA_BYTES else None


def are_usable(matrix: NDArray[Any], spec: IndexSpec) -> bool:
    """Whether `prepare_kept` takes all of these embeddings for certain, and only rounds them, unless under cosine."""
    if matrix.ndim != 2 or matrix.shape[1] != spec.dimension or matrix.dtype.kind not in "fiu":
        return False
    parts = (matrix[start : start + ROWS_AT_ONCE] for start in range(0, len(matrix), ROWS_AT_ONCE))
    if spec.metric == "cosine":
        return matrix.dtype in (np.float32, np.float64) and all(map(_have_direction, parts))
    largest = LARGEST[spec.precision]
    return all(-largest <= float(part.min()) and float(part.max()) <= largest for part in parts)  # NaN is neither


def _have_direction(part: NDArray[np.floating[Any]]) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):  # neither is between the two
        squares = np.einsum("nd,nd->n", part, part)
    return bool(SQUARES[0] < squares.min() and squares.max() < SQUARES[1])


def _are_keys(keys: set[str]) -> bool:
    try:
        check_metadata(dict.fromkeys(keys))
    except InvalidDocument:
        return False
    return True


def _are_values(objects: Iterable[dict[str, Any]]) -> bool:
    values = list(chain.from_iterable(map(dict.values, objects)))
    if not set(map(type, values)) <= _SCALARS:
        return False
    integers = [value for value in values if type(value) is int]
    small = not integers or -LARGEST_INTEGER < min(integers) <= max(integers) < LARGEST_INTEGER
    return small and _are_kept([value for value in values if type(value) is str])


def _are_kept(texts: Sequence[str]) -> bool:
    whole = "".join(texts)
    if "\0" in whole:
        return False
    try:
        return whole.isascii() or bool(whole.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False
