"""Connections to PostgreSQL: the pool, what each session is set to, the version floor, errors turned into ours."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from backends.corpus.migrations import migrate
from backends.errors import CorpusUnavailable, InvalidSettings, Unsupported

Connection = psycopg.Connection[TupleRow]

POOL_WAIT_S = 30.0
CONNECT_TIMEOUT_S = 10


class _Session(psycopg.Connection[TupleRow]):
    """A connection that remembers what its session was last set to, so that a search need not set it again."""

    settings: dict[str, str] | None  # None: not known

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = {}


class _Stack(deque[Any]):
    """Connections that are free, the last one given back on top."""

    append = deque.appendleft


class Database:
    """One PostgreSQL database that holds a corpus. Safe to use from any thread.

    Raises CorpusUnavailable where PostgreSQL cannot be reached, and Unsupported where pgvector is missing or old.

    `gently` is for work that must not get in the way of queries: no statement takes parallel workers, and `gently`
    is told the process id of each backend, so that it can be slowed down where it is on this machine.
    """

    def __init__(self, conninfo: str, pool_size: int, gently: Callable[[int], None] | None = None) -> None:
        self.conninfo = conninfo
        self._gently = gently
        self.options = _connection_options(conninfo, gently is not None)
        self._pool = ConnectionPool(
            conninfo,
            connection_class=_Session,
            min_size=1,
            max_size=pool_size,
            timeout=POOL_WAIT_S,
            open=False,
            configure=self._configure,
            kwargs=self.options,
        )
        # One after the other, each search would find another server process with cold caches: a sixth slower.
        if isinstance(getattr(self._pool, "_pool", None), deque):
            self._pool._pool = _Stack()
        self._closed = threading.Event()

    def open(self) -> None:
        """Check the server, bring the schema up to date, and fill the pool."""
        # Not `connect`: pgvector may not be there yet.
        with errors_mapped(), psycopg.connect(self.conninfo, **self.options) as connection:
            migrate(connection)
        with errors_mapped():
            self._pool.open(wait=True, timeout=POOL_WAIT_S)

    def close(self) -> None:
        """Close every connection. Calling it again does nothing."""
        if not self._closed.is_set():
            self._closed.set()
            self._pool.close()

    @contextmanager
    def connection(self, settings: dict[str, str] | None = None, wait_s: float = POOL_WAIT_S) -> Iterator[Connection]:
        """Lend a connection in autocommit mode, its session set to `settings` (and to the defaults elsewhere)."""
        with errors_mapped(wait_s):
            connection = self._pool.getconn(wait_s)
            try:
                _apply(connection, settings or {})
                yield connection
            finally:
                self._pool.putconn(connection)

    def rows(self, text: str, values: dict[str, Any], settings: dict[str, str]) -> list[TupleRow]:
        """Run one statement, binary, in autocommit mode, in a session that is set to `settings`; return its rows.

        What `connection` does, without its layers: a search feels them. Raises the driver's own errors.
        """
        connection = self._pool.getconn(POOL_WAIT_S)
        try:
            _apply(connection, settings)
            return connection.execute(text, values, binary=True).fetchall()
        finally:
            self._pool.putconn(connection)

    @contextmanager
    def transaction(self, wait_s: float = POOL_WAIT_S) -> Iterator[Connection]:
        """Lend a connection inside one transaction, committed at the end and rolled back on an error."""
        with self.connection(wait_s=wait_s) as connection, connection.transaction():
            yield connection

    @contextmanager
    def dedicated(self) -> Iterator[Connection]:
        """Open a connection outside the pool, in autocommit mode: for what takes long or locks for long."""
        with errors_mapped(), self.connect() as connection:
            yield connection

    def connect(self) -> Connection:
        """Open a connection outside the pool, in autocommit mode, which is the caller's to close."""
        with errors_mapped():
            connection = psycopg.connect(self.conninfo, **self.options)
            self._configure(connection)
            return connection

    def _configure(self, connection: Connection) -> None:
        register_vector(connection)
        if self._gently is not None:
            self._gently(connection.info.backend_pid)

    def ping(self) -> None:
        """Raise CorpusUnavailable where PostgreSQL does not answer."""
        with self.connection() as connection:
            connection.execute("SELECT 1")

    def pool_stats(self) -> dict[str, int]:
        """Return psycopg_pool's own figures: pool_size, pool_available, requests_waiting and others."""
        return self._pool.get_stats()


@contextmanager
def errors_mapped(wait_s: float = POOL_WAIT_S) -> Iterator[None]:
    """Turn the driver's "cannot reach" errors into CorpusUnavailable; other driver errors pass."""
    try:
        yield
    except PoolTimeout as error:
        raise CorpusUnavailable(
            f"no connection to PostgreSQL came free within {wait_s:.0f} s; raise pool_size, or send less at once"
        ) from error
    except psycopg.errors.QueryCanceled:
        raise
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
        raise Unsupported(
            f"PostgreSQL refuses: {_first_line(error)}; needed the primary server, and a user who may write there"
        ) from error
    except psycopg.errors.DiskFull as error:
        raise CorpusUnavailable(f"PostgreSQL has no room: {_first_line(error)}") from error
    except psycopg.OperationalError as error:
        if isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected):
            raise
        raise CorpusUnavailable(f"PostgreSQL cannot be reached: {_first_line(error)}") from error
    except psycopg.ProgrammingError as error:
        if error.sqlstate is None:  # libpq could not read the conninfo
            raise InvalidSettings("data", f"not a PostgreSQL URL that libpq understands: {error}") from error
        raise


def _connection_options(conninfo: str, gently: bool) -> dict[str, Any]:
    """What every session begins with, whatever the role's or the database's own defaults are."""
    try:
        given = conninfo_to_dict(conninfo).get("options") or ""
    except psycopg.ProgrammingError:
        given = ""  # told when it is used
    # The JIT compiler costs a tenth of a second on the plans of exact searches, and saves less.
    ours = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c jit=off"
    if gently:
        ours += " -c max_parallel_workers_per_gather=0 -c max_parallel_maintenance_workers=0"
    return {
        "autocommit": True,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "ragstone",
        "client_encoding": "utf8",
        "options": f"{given} {ours}".strip(),
    }


def session_settings(wanted: dict[str, str]) -> sql.Composed:
    """Return the statement that sets a session to `wanted`, and to the defaults elsewhere."""
    calls = [sql.SQL("set_config({}, {}, false)").format(*pair) for pair in wanted.items()]
    chosen = sql.SQL("; SELECT ") + sql.SQL(", ").join(calls) if calls else sql.SQL("")
    return sql.SQL("RESET ALL") + chosen


def _apply(connection: _Session, wanted: dict[str, str]) -> None:
    if connection.settings == wanted:
        return
    connection.settings = None
    connection.execute(session_settings(wanted))
    connection.settings = dict(wanted)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
