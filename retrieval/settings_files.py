"""Files that a setting names: TOML or JSON, whose every key is known and whose amounts are exact."""

import json
import tomllib
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

from backends.errors import InvalidSettings

MAX_DIGITS = 15
MAX_DECIMALS = 12
"""So many that products with any count of tokens, and sums of them, are exact."""
SHOWN_CHARACTERS = 60

T = TypeVar("T")


def read_settings_file(setting: str, path: str) -> dict[str, Any]:
    """Read the file that `setting` names, fractions as Decimal; raises InvalidSettings."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InvalidSettings(setting, f"found {path!r}, which cannot be read: {error}") from error
    try:
        if path.endswith(".json"):
            found = json.loads(text, parse_float=Decimal, parse_constant=Decimal)
        else:
            found = tomllib.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.endswith(".json") else "TOML"
        raise InvalidSettings(setting, f"{path} is not {kind}: {error}") from error
    return table(found, setting)


def table(found: object, where: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    """Return a table whose keys are all `known`, where those are given; raises InvalidSettings naming the key."""
    if not isinstance(found, dict):
        raise InvalidSettings(where, f"found {shown(found)}; needed a table of keys and values")
    needed = None if known is None else list(known)
    for key in found:
        if needed is not None and key not in needed:
            raise InvalidSettings(f"{where}.{key}", f"not a key that there is; needed one of {', '.join(needed)}")
    return found


def amounts(found: object, where: str, known: Iterable[str] | None = None) -> dict[str, Decimal]:
    """Return a table of amounts; raises InvalidSettings naming the key."""
    return {key: amount(value, f"{where}.{key}") for key, value in table(found, where, known).items()}


def amount(found: object, where: str) -> Decimal:
    """Return an amount that is given as a number or as a string of one; raises InvalidSettings."""
    value = _decimal(found)
    if value is None or not value.is_finite() or value < 0:
        raise InvalidSettings(where, f'found {shown(found)}; needed a number from 0, as 0.25 or "0.25"')
    digits, exponent = len(value.as_tuple().digits), value.normalize().as_tuple().exponent
    if digits > MAX_DIGITS or not -MAX_DECIMALS <= int(exponent) <= MAX_DIGITS:
        raise InvalidSettings(
            where, f"found {shown(found)}; needed at most {MAX_DIGITS} digits, {MAX_DECIMALS} of them decimals"
        )
    return value


def shown(found: object) -> str:
    """Return a value as an error quotes it."""
    text = str(found) if isinstance(found, Decimal) else repr(found)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def one_of(found: object, where: str, known: Sequence[T]) -> T:
    """Return what is one of those that are known; raises InvalidSettings."""
    for one in known:
        if found == one:
            return one
    raise InvalidSettings(where, f"found {shown(found)}; needed one of {', '.join(map(str, known))}")


def _decimal(found: object) -> Decimal | None:
    if isinstance(found, bool) or not isinstance(found, int | str | Decimal):
        return None
    try:
        return Decimal(found)
    except InvalidOperation:
        return None
