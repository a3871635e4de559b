"""Which PostgreSQL can hold a corpus, and how it is brought to the present schema."""

from collections.abc import Iterator

import psycopg
import pytest

from backends.corpus.database import Database
from backends.errors import InvalidSettings, Unsupported


@pytest.fixture
def empty_url(postgres_url: str, database: Database) -> Iterator[str]:
    """A database of its own on the same server, without a corpus."""
    with database.connection() as connection:
        connection.execute("DROP DATABASE IF EXISTS empty_one WITH (FORCE)")
        connection.execute("CREATE DATABASE empty_one")
    yield psycopg.conninfo.make_conninfo(postgres_url, dbname="empty_one")
    with database.connection() as connection:
        connection.execute("DROP DATABASE empty_one WITH (FORCE)")


def _open(url: str) -> None:
    opened = Database(url, pool_size=1)
    try:
        opened.open()
    finally:
        opened.close()


def test_an_empty_database_becomes_a_corpus_once(empty_url: str) -> None:
    """Opening creates the schema; opening again applies nothing."""
    _open(empty_url)
    with psycopg.connect(empty_url) as connection:
        before = connection.execute("SELECT xmin, version FROM ragstone.migration ORDER BY version").fetchall()
    _open(empty_url)
    with psycopg.connect(empty_url) as connection:
        after = connection.execute("SELECT xmin, version FROM ragstone.migration ORDER BY version").fetchall()
    assert before == after
    assert before[0][1] == 1


def test_postgresql_without_pgvector_is_refused(empty_url: str) -> None:
    """The error says what to install, and no schema is left behind."""
    nowhere = psycopg.conninfo.make_conninfo(empty_url, options="-c extension_control_path=/nowhere")
    with pytest.raises(Unsupported, match="no pgvector: install"):
        _open(nowhere)
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("SELECT to_regnamespace('ragstone')").fetchone() == (None,)


def test_a_user_who_may_not_create_the_extension_is_told_who_may(empty_url: str) -> None:
    """A managed database needs its administrator once."""
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS plain_user")
        connection.execute("CREATE ROLE plain_user LOGIN")
    try:
        with pytest.raises(Unsupported, match="let a superuser run CREATE EXTENSION vector"):
            _open(psycopg.conninfo.make_conninfo(empty_url, user="plain_user"))
    finally:
        with psycopg.connect(empty_url, autocommit=True) as connection:
            connection.execute("DROP ROLE plain_user")


@pytest.mark.parametrize("version", ["0.8.3", "0.7.4"])
def test_an_old_pgvector_is_refused(empty_url: str, version: str) -> None:
    """0.8.3 and earlier can corrupt an index: found, needed and the fix are in the error."""
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'", (version,))
    with pytest.raises(Unsupported, match=rf"found pgvector {version}; needed 0.8.4 or later.*ALTER EXTENSION"):
        _open(empty_url)


def test_a_schema_from_the_future_is_refused(empty_url: str) -> None:
    """An older Ragstone leaves a newer corpus alone."""
    _open(empty_url)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("INSERT INTO ragstone.migration VALUES (9999, 'future')")
    with pytest.raises(Unsupported, match="schema version 9999"):
        _open(empty_url)


def test_a_url_that_libpq_cannot_read_is_a_wrong_setting() -> None:
    """The error names the setting, not a traceback of the driver."""
    with pytest.raises(InvalidSettings, match="data: not a PostgreSQL URL"):
        _open("postgresql://somebody@host?nonsense=1")
