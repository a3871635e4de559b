"""Brings a database to the schema that this version knows, and refuses one that it cannot use."""

import logging
from importlib import resources

import psycopg
from psycopg.rows import TupleRow

from backends.errors import Unsupported

PGVECTOR_FLOOR = (0, 8, 4)
"""0.8.3 mended an index corruption in vacuum, 0.8.4 inserts that failed beside a vacuum."""
POSTGRESQL_FLOOR = 15
LOCK_KEY = 0x7261677374  # "ragst": one migration at a time

log = logging.getLogger(__name__)


def migrate(connection: psycopg.Connection[TupleRow]) -> None:
    """Apply what `sql/migrations/NNNN_*.sql` has and the database lacks, in one transaction.

    Raises Unsupported where PostgreSQL or pgvector is missing or too old, or the schema is newer than we are.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
        if _has_schema(connection):
            _check_pgvector(connection)
        else:
            _check_postgresql(connection)
            _create_extension(connection)
            _check_pgvector(connection)
            connection.execute("CREATE SCHEMA ragstone")
            connection.execute("CREATE TABLE ragstone.migration (version integer PRIMARY KEY, name text NOT NULL)")
        _apply_missing(connection)


def _apply_missing(connection: psycopg.Connection[TupleRow]) -> None:
    done = {row[0] for row in connection.execute("SELECT version FROM ragstone.migration")}
    known = _migrations()
    if done - known.keys():
        raise Unsupported(
            f"the corpus has schema version {max(done)}, this Ragstone knows {max(known)}: update Ragstone"
        )
    for version in sorted(known.keys() - done):
        name, text = known[version]
        connection.execute(text.encode())
        connection.execute("INSERT INTO ragstone.migration VALUES (%s, %s)", (version, name))
        log.info("corpus schema: applied %s", name)


def _migrations() -> dict[int, tuple[str, str]]:
    folder = resources.files("backends.corpus").joinpath("sql", "migrations")
    files = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return {int(file.name[:4]): (file.name, file.read_text(encoding="utf-8")) for file in files}


def _has_schema(connection: psycopg.Connection[TupleRow]) -> bool:
    return connection.execute("SELECT to_regclass('ragstone.migration')").fetchone() != (None,)


def _check_postgresql(connection: psycopg.Connection[TupleRow]) -> None:
    if connection.info.server_version < POSTGRESQL_FLOOR * 10_000:
        found = connection.info.parameter_status("server_version")
        raise Unsupported(f"found PostgreSQL {found}; needed {POSTGRESQL_FLOOR} or later")
    if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
        raise Unsupported(f"the database's encoding is {encoding}; needed UTF8: CREATE DATABASE ... ENCODING 'UTF8'")


def _create_extension(connection: psycopg.Connection[TupleRow]) -> None:
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege as error:
        raise Unsupported(
            "PostgreSQL has no extension `vector` in this database and this user may not create it: "
            "let a superuser run CREATE EXTENSION vector"
        ) from error
    except psycopg.Error as error:
        if error.sqlstate not in ("0A000", "58P01", "42704"):  # not installed, in the words of several versions
            raise
        raise Unsupported(
            "this PostgreSQL has no pgvector: install the pgvector package of your system "
            f"({_dotted(PGVECTOR_FLOOR)} or later), or let Ragstone run its own by giving --data a folder"
        ) from error


def _check_pgvector(connection: psycopg.Connection[TupleRow]) -> None:
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    found = row[0] if row else "none"
    if row is None or tuple(int(part) for part in found.split(".")) < PGVECTOR_FLOOR:
        raise Unsupported(
            f"found pgvector {found}; needed {_dotted(PGVECTOR_FLOOR)} or later, since older ones can corrupt an "
            "index: install it and run ALTER EXTENSION vector UPDATE"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
