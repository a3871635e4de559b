"""How hard an index searches: the least effort that was found to reach the recall wanted, by filter selectivity."""

from collections.abc import Mapping
from typing import Literal, get_args

Band = Literal["all", "10%", "1%", "0.1%", "<0.1%"]
BANDS: tuple[Band, ...] = get_args(Band)
"""Searches without a filter, and those whose filter matches at least so much of the collection."""

_LEAST: dict[Band, float] = {"10%": 0.1, "1%": 0.01, "0.1%": 0.001}


def band_of(matching: int | None, chunks: int) -> Band:
    """Return the band of a filter that matches so many of so many chunks; None for no filter."""
    if matching is None:
        return "all"
    share = matching / max(chunks, 1)
    return next((band for band, least in _LEAST.items() if share >= least), "<0.1%")


def effort_of(tuned: Mapping[str, int], band: Band | None) -> int | None:
    """Return the effort for a band from those that were tuned by band, or None for the settings' own.

    A band that was not tuned takes what the next wider one has: fewer matches never need less. For a filter whose
    band is not known (None) it is the most that any needs.
    """
    if band is None:
        return max(tuned.values(), default=None)
    wider = BANDS[: BANDS.index(band) + 1]
    return next((tuned[name] for name in reversed(wider) if name in tuned), None)
