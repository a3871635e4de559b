"""A repository's address as it is remembered and shown."""

import re
from pathlib import Path


def address(repo: str) -> str:
    """Return it without credentials, and a folder by its whole path."""
    return re.sub(r"//[^/@]*@", "//", repo) if "://" in repo else str(Path(repo).resolve())
