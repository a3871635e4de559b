"""Checks of what users hand in. Each error names the field and the fix, and comes before anything is changed."""

import re
from collections.abc import Iterable, Sequence

from backends.errors import DuplicateId, InvalidDocument, InvalidInput, InvalidName, NotBuiltYet
from backends.filters import check_metadata, check_text
from retrieval.documents import Document

MAX_ID_BYTES = 1_024
MAX_TITLE_CHARACTERS = 10_000
MAX_NAME_CHARACTERS = 100
MAX_CHUNKS = 10**12
"""More than any index holds."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_name(name: object) -> str:
    """Return a collection's name, or raise InvalidName."""
    if isinstance(name, str) and len(name) <= MAX_NAME_CHARACTERS and _NAME.fullmatch(name):
        return name
    raise InvalidName(
        "name",
        f"found {shown(name)}; needed 1 to {MAX_NAME_CHARACTERS} of the characters A-Z a-z 0-9 _ . - "
        "beginning with a letter or a digit",
    )


def check_placement(placement_threshold: int | None, recall_target: float | None) -> None:
    """Raise InvalidInput where one of a collection's own settings is out of range."""
    if placement_threshold is not None and not 1 <= placement_threshold <= MAX_CHUNKS:
        raise InvalidInput("placement_threshold", f"found {placement_threshold}; needed 1 to {MAX_CHUNKS}")
    if recall_target is not None and not 0 <= recall_target <= 1:
        raise InvalidInput("recall_target", f"found {recall_target}; needed 0 to 1")


def check_documents(documents: Iterable[Document]) -> list[Document]:
    """Return the documents in the order of their ids; raises InvalidDocument or DuplicateId."""
    checked = list(documents)
    for position, document in enumerate(checked):
        field = f"documents[{position}]"
        if not isinstance(document, Document):
            raise InvalidDocument(field, f"found {type(document).__name__}; needed a retrieval.Document")
        check_document(document, field)
    check_distinct([document.id for document in checked], "documents")
    return sorted(checked, key=lambda document: document.id)


def check_document(document: Document, field: str) -> None:
    """Raise InvalidDocument where a document could not be kept, or could never be found."""
    check_id(document.id, f"{field}.id")
    _check_string(document.title, f"{field}.title")
    _check_string(document.text, f"{field}.text")
    if len(document.title) > MAX_TITLE_CHARACTERS:
        raise InvalidDocument(
            f"{field}.title", f"found {len(document.title)} characters; needed at most {MAX_TITLE_CHARACTERS}"
        )
    if not document.text.strip():
        raise InvalidDocument(f"{field}.text", "found no text; needed some, since nothing could be found in it")
    check_metadata(document.metadata, f"{field}.metadata")


def check_id(id_: object, field: str) -> str:
    """Return a document's id, or raise InvalidDocument."""
    _check_string(id_, field)
    assert isinstance(id_, str)
    if not 1 <= (size := len(id_.encode())) <= MAX_ID_BYTES:
        raise InvalidDocument(field, f"found {size} bytes; needed 1 to {MAX_ID_BYTES}")
    return id_


def check_distinct(ids: Sequence[str], field: str) -> None:
    """Raise DuplicateId where an id stands twice in one batch."""
    if len(set(ids)) == len(ids):
        return
    seen: dict[str, int] = {}
    part = ".id" if field == "documents" else ""
    for position, id_ in enumerate(ids):
        if id_ in seen:
            raise DuplicateId(
                f"{field}[{position}]{part}", f"{shown(id_)} is the id of {field}[{seen[id_]}] too; needed it once"
            )
        seen[id_] = position


def check_list(values: object, field: str) -> None:
    """Raise InvalidInput for a string, whose characters would each be taken for a value."""
    if isinstance(values, str | bytes):
        raise InvalidInput(field, f"found {shown(values)}; needed a list")


def check_top_k(top_k: object, limit: int) -> int:
    """Return top_k, or raise InvalidInput."""
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= limit:
        raise InvalidInput("top_k", f"found {shown(top_k)}; needed a whole number from 1 to {limit}")
    return top_k


def check_max_tokens(max_tokens: object) -> int | None:
    """Return max_tokens, or raise InvalidInput; None leaves it to the model server."""
    if max_tokens is None:
        return None
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise InvalidInput("max_tokens", f"found {shown(max_tokens)}; needed a whole number from 1")
    return max_tokens


def check_query(query: object) -> str:
    """Return a query's text, or raise InvalidInput."""
    if not isinstance(query, str) or not query.strip():
        raise InvalidInput("query", f"found {shown(query)}; needed a text that is not empty")
    check_text(query, "query", InvalidInput)
    return query


def check_mode(mode: str) -> None:
    """Raise where a retrieval mode is unknown or not built yet."""
    if mode in ("keyword", "hybrid"):
        raise NotBuiltYet(f"mode {mode!r} is not built yet; use mode 'dense'")
    if mode != "dense":
        raise InvalidInput("mode", f"found {shown(mode)}; needed 'dense' ('keyword' and 'hybrid' are not built yet)")


def shown(value: object) -> str:
    """Return a value as an error may show it: short."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _check_string(value: object, field: str) -> None:
    if not isinstance(value, str):
        raise InvalidDocument(field, f"found {type(value).__name__}; needed a string")
    check_text(value, field, InvalidDocument)
