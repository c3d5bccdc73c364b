"""
Connections to the ledger's database: how they are made and bounded in time, and what their errors mean.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
import psycopg.conninfo
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.answering import connect
from shared.errors import ConfigurationError, Unavailable

# A process has its main thread and the one that renews the lease.
POOL_SIZE: Final = 2
POOL_OVERFLOW: Final = 3
# Load balancers and NAT gateways forget idle connections; those of AWS after 350 seconds.
# Source: Elastic Load Balancing, "Network Load Balancers", connection idle timeout.
POOL_RECYCLE_SECONDS: Final = 300

# A worker that is frozen within a transaction must not hold its batch for ever. Above the time that the outbox may
# take to send a handful of messages.
IDLE_IN_TRANSACTION_SECONDS: Final = 120

# How soon the server notices that the machine of a client is gone, without a word: asked after 30 seconds of silence,
# then twice more, ten seconds apart. With Linux as it comes that takes over two hours, and so long a named lock, which
# may be idle for any time, would keep every later sweep out.
# Source: PostgreSQL documentation, "Connections and Authentication", TCP settings.
SERVER_KEEPALIVES: Final = {"idle": 30, "interval": 10, "count": 3}


class Database:
    """
    A small pool of connections that is filled when first used.

    Raises:
        ConfigurationError: if `dsn` is no connection string. The message does not quote it.
    """

    def __init__(self, dsn: str, *, statement_timeout_seconds: int, connect_timeout_seconds: int) -> None:
        parameters = _parameters_of(dsn)
        self.name = _name_of(parameters)
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: connect(
                statement_timeout_seconds=statement_timeout_seconds,
                **{**parameters, "connect_timeout": connect_timeout_seconds},
            ),
            isolation_level="READ COMMITTED",
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=statement_timeout_seconds,
            pool_recycle=POOL_RECYCLE_SECONDS,
            pool_pre_ping=True,
            # Parameters hold sentences from sources; they do not belong in an error.
            hide_parameters=True,
        )

        @event.listens_for(self._engine, "connect")
        def limit_session(connection: psycopg.Connection, _: object) -> None:
            # Not by `options` in the connection string, which proxies between us and the database refuse.
            connection.execute(
                "SELECT set_config('statement_timeout', %s, false),"
                " set_config('idle_in_transaction_session_timeout', %s, false),"
                " set_config('tcp_keepalives_idle', %s, false),"
                " set_config('tcp_keepalives_interval', %s, false),"
                " set_config('tcp_keepalives_count', %s, false),"
                # Which index fits depends on the values: open batches are few, published ones are not.
                " set_config('plan_cache_mode', 'force_custom_plan', false)",
                (
                    f"{statement_timeout_seconds}s",
                    f"{IDLE_IN_TRANSACTION_SECONDS}s",
                    *(str(value) for value in SERVER_KEEPALIVES.values()),
                ),
            )
            connection.commit()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """
        Begin a transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            Unavailable: if the database cannot be reached, or broke off at the commit.
        """
        with self.errors_translated():
            connection = self._engine.connect()
        try:
            yield connection
            with self.errors_translated(connection):
                connection.commit()
        except BaseException:
            # The first error is the one that tells something.
            with suppress(DBAPIError):
                connection.rollback()
            raise
        finally:
            connection.close()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def errors_translated(self, connection: Connection | None = None) -> Iterator[None]:
        """
        Run a block of statements, and say what an error of the database means.

        Raises:
            Unavailable: if the database is away, too slow, shutting down, or chose this transaction to give way.
            ConfigurationError: if it has no tables.
        """
        try:
            yield
        except PoolTimeoutError as error:
            raise Unavailable(f"{self.name}: every connection of the pool is in use") from error
        except DBAPIError as error:
            cause = error.orig
            if isinstance(cause, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
                raise ConfigurationError(
                    f"{self.name} lacks tables of this version; migrate it first: {_first_line(cause)}"
                ) from cause
            if isinstance(cause, psycopg.errors.ReadOnlySqlTransaction) and connection is not None:
                # After a failover we may still be connected to what is a reader now.
                connection.invalidate()
            elif not (
                isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)
                or error.connection_invalidated
            ):
                raise
            raise Unavailable(f"{self.name}: {_first_line(cause)}") from cause


def _parameters_of(dsn: str) -> dict[str, Any]:
    # What libpq says of a string that it cannot read quotes the string, password and all. An unencoded `@` in
    # a password makes the rest of it part of the host's name, which errors quote too.
    with suppress(psycopg.ProgrammingError):
        parameters = psycopg.conninfo.conninfo_to_dict(dsn)
        if "@" not in str(parameters.get("host", "")):
            return dict(parameters)
    raise ConfigurationError(
        "the ledger's address is no connection string of PostgreSQL; expected "
        "postgresql://user:password@host:port/database with %-encoded user and password"
    )


def _name_of(parameters: Mapping[str, Any]) -> str:
    host, port = parameters.get("host", "localhost"), parameters.get("port", 5432)
    return f"the ledger at {host}:{port}, database {parameters.get('dbname', 'of the user')}"


def _first_line(error: BaseException | None) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
