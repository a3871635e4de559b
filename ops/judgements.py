"""Reads what an evaluation needs: queries (JSONL) and relevance judgements (qrels)."""

import json
from collections.abc import Iterator
from pathlib import Path

from backends.errors import InvalidInput

Judgements = dict[str, dict[str, int]]
"""Query id to document id to grade; above 0 is relevant."""


def read_queries(path: Path) -> dict[str, str]:
    """Read `{"_id": ..., "text": ...}` lines into query id to text.

    Raises InvalidInput that names the line.
    """
    queries: dict[str, str] = {}
    for field, line in _lines("queries", path):
        query_id, text = _query(field, line)
        if query_id in queries:
            raise InvalidInput(field, f"the id {query_id!r} was there before; each query needs its own")
        queries[query_id] = text
    return queries


def read_judgements(path: Path) -> Judgements:
    """Read qrels of three columns (query, document, grade) or TREC's four, with a header line or without.

    Raises InvalidInput that names the line.
    """
    judgements: Judgements = {}
    for number, (field, line) in enumerate(_lines("qrels", path)):
        columns = line.split("\t") if "\t" in line else line.split()
        if number == 0 and _is_header(columns):
            continue
        query_id, document_id, grade = _judgement(field, columns)
        graded = judgements.setdefault(query_id, {})
        if graded.setdefault(document_id, grade) != grade:
            raise InvalidInput(field, f"{document_id!r} has two different grades for query {query_id!r}")
    return judgements


def _lines(name: str, path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{name} line {number}", line.rstrip("\r\n")
    except OSError as error:
        raise InvalidInput(name, f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(name, f"{path} is not UTF-8: {error}") from error


def _query(field: str, line: str) -> tuple[str, str]:
    try:
        found = json.loads(line)
        query_id, text = found.get("_id", found.get("id")), found["text"]
    except (ValueError, KeyError, AttributeError) as error:
        raise InvalidInput(field, f'not {{"_id": ..., "text": ...}}; found {line[:80]!r}') from error
    if not (isinstance(query_id, str | int) and isinstance(text, str) and text.strip()):
        raise InvalidInput(field, f'"_id" and "text" must be strings with something in them; found {line[:80]!r}')
    return str(query_id), text


def _is_header(columns: list[str]) -> bool:
    return len(columns) in (3, 4) and not _is_whole(columns[-1])


def _is_whole(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


def _judgement(field: str, columns: list[str]) -> tuple[str, str, int]:
    if len(columns) not in (3, 4):
        raise InvalidInput(
            field,
            f"{len(columns)} columns; needs query, document, grade, or TREC's query, 0, document, grade",
        )
    if not _is_whole(columns[-1]):
        raise InvalidInput(field, f"the grade {columns[-1]!r} is not a whole number")
    return columns[0].strip(), columns[-2].strip(), int(columns[-1])
