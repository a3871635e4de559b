"""JSONL corpora: one {"_id", "title", "text", "metadata"} a line."""

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from backends.errors import InvalidDocument
from backends.filters import check_metadata
from retrieval.documents import Document
from retrieval.parsing.decoding import check_text, decode


def parse_jsonl(name: str, lines: Iterable[bytes]) -> Iterator[Document]:
    """Yield the document of each line that is not blank; `lines` are split at line feeds alone.

    `_id` (or `id`) and `text` are needed and are strings; `title` and `metadata` may be missing or null.
    Raises InvalidDocument, whose field is like `corpus.jsonl line 17: text`.
    """
    offset = 0
    for number, line in enumerate(lines, start=1):
        data = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if data.strip():
            yield _document(f"{name} line {number}", data, offset + len(line) - len(data))
        offset += len(line)


def _document(where: str, line: bytes, offset: int) -> Document:
    row = _object(where, decode(where, line, offset=offset))
    title, metadata = row.get("title"), row.get("metadata")
    document = Document(
        id=_string(where, row, "id" if "id" in row and "_id" not in row else "_id"),
        title="" if title is None else _string(where, row, "title"),
        text=_string(where, row, "text"),
        metadata={} if metadata is None else metadata,
    )
    check_metadata(document.metadata, f"{where}: metadata")
    return document


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidDocument(where, "found JSON nested too deep; needed a flat object") from None
    except ValueError as error:
        raise InvalidDocument(where, f"found no valid JSON ({error}); needed one JSON object") from error
    if not isinstance(row, dict):
        raise InvalidDocument(where, f"found {_kind(row)}; needed an object with _id and text")
    return row


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _string(where: str, row: dict[str, Any], key: str) -> str:
    field = f"{where}: {key}"
    if key not in row:
        raise InvalidDocument(field, "found none; needed a string")
    value = row[key]
    if not isinstance(value, str):
        raise InvalidDocument(field, f"found {_kind(value)}; needed a string, in double quotes")
    check_text(field, value)
    return value


def _kind(value: object) -> str:
    """The JSON name of a value's type."""
    kinds = {dict: "an object", list: "an array", bool: "a boolean", type(None): "null", str: "a string"}
    return kinds.get(type(value), "a number")
