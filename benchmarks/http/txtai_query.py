"""How txtai's API takes a ready embedding: as a text, JSON, which its external method turns into numbers."""

import json

import numpy as np
import numpy.typing as npt


def embedded(texts: list[str]) -> npt.NDArray[np.float32]:
    """Return float32 [n, d] of n texts, each a JSON array of d numbers."""
    return np.array([json.loads(text) for text in texts], dtype=np.float32)
