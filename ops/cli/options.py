"""The arguments and options that several commands share."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from backends import filters
from backends.errors import InvalidFilter, NotBuiltYet

Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
FilterText = Annotated[
    str | None,
    typer.Option("--filter", metavar="JSON", help="""Only what matches, for example '{"year": {"$gte": 2025}}'."""),
]


class Mode(StrEnum):
    """How passages are found."""

    DENSE = "dense"
    KEYWORD = "keyword"
    HYBRID = "hybrid"


ModeOption = Annotated[Mode, typer.Option("--mode", help="How to find passages; keyword and hybrid are not built yet.")]


def require_built(mode: Mode) -> None:
    """Refuse a mode that is not built yet, before anything is started for it."""
    if mode is not Mode.DENSE:
        raise NotBuiltYet(f"mode: {mode.value} is not built yet; use dense")


def read_filter(text: str | None) -> dict[str, Any] | None:
    """Read a filter from the command line; InvalidFilter says what is wrong with it."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidFilter(
            "filter", f"""not JSON ({error}); needs an object, for example '{{"year": {{"$gte": 2025}}}}'"""
        ) from error
    filters.parse(found)
    assert isinstance(found, dict)
    return found
