"""Named queries, read from the .sql files beside this module."""

import re
from functools import cache
from importlib import resources

from psycopg import sql

_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def named_queries(file: str) -> dict[str, str]:
    """Return the queries of `sql/<file>.sql` by name. Each begins with `-- name:` and a line of purpose."""
    text = resources.files("backends.corpus").joinpath("sql", f"{file}.sql").read_text(encoding="utf-8")
    pieces = _HEADER.split(text)[1:]
    return {name: body.strip() for name, body in zip(pieces[::2], pieces[1::2], strict=True)}


@cache
def query(file: str, name: str, collection_id: int | None = None, **fragments: str) -> str:
    """Return one query's text, with the tables of a collection where it names {chunk} and {embedding}.

    `fragments` fill its other braces and are our own constants, never anything that a caller sent.
    """
    text = named_queries(file)[name]
    names = {} if collection_id is None else _tables(collection_id)
    parts = {key: sql.SQL(value) for key, value in fragments.items()}
    return sql.SQL(text).format(**names, **parts).as_string(None)


def _tables(collection_id: int) -> dict[str, sql.Identifier]:
    return {
        "chunk": sql.Identifier("ragstone", f"chunk_{collection_id}"),
        "embedding": sql.Identifier("ragstone", f"embedding_{collection_id}"),
        "hnsw": sql.Identifier("ragstone", f"embedding_{collection_id}_hnsw"),
        "hnsw_name": sql.Identifier(f"embedding_{collection_id}_hnsw"),
        "gin": sql.Identifier("ragstone", f"chunk_{collection_id}_metadata"),
        "gin_name": sql.Identifier(f"chunk_{collection_id}_metadata"),
    }
