"""Who a request is made for: tenant, user and feature, as the caller says."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace

from backends.errors import InvalidInput

MAX_TAG_CHARACTERS = 100
SHOWN_CHARACTERS = 60


def check_tag(value: object, field: str) -> str:
    """Return a tag, or raise InvalidInput that names `field`."""
    needed = f"needed at most {MAX_TAG_CHARACTERS} printable characters"
    if not isinstance(value, str):
        raise InvalidInput(field, f"found {type(value).__name__}; {needed}")
    if len(value) > MAX_TAG_CHARACTERS:
        raise InvalidInput(field, f"found {len(value)} characters; {needed}")
    if not value.isprintable():
        raise InvalidInput(field, f"found {ascii(value)[:SHOWN_CHARACTERS]}; {needed}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """What costs and budgets go by; empty where nobody said. Raises InvalidInput for what cannot be a tag."""

    tenant: str = ""
    user: str = ""
    feature: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            check_tag(getattr(self, field.name), field.name)


NOBODY = Tags()
_current: ContextVar[Tags] = ContextVar("ragstone_tags", default=NOBODY)


def current_tags() -> Tags:
    """Return who the request of this context is made for."""
    return _current.get()


@contextmanager
def attributed(*, tenant: str | None = None, user: str | None = None, feature: str | None = None) -> Iterator[Tags]:
    """Make what is asked in the block for these; None leaves what was said before. Raises InvalidInput."""
    given = {"tenant": tenant, "user": user, "feature": feature}
    tags = replace(current_tags(), **{name: value for name, value in given.items() if value is not None})
    token = _current.set(tags)
    try:
        yield tags
    finally:
        _current.reset(token)
