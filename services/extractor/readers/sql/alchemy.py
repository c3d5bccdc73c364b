"""
Whatever has only a Python driver, by a SQLAlchemy URL. Tried with pymysql, psycopg and sqlite3.

SQLAlchemy connects and streams; no SQL of its own is used, since the dialect says each statement whole.
"""

import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from sqlalchemy import create_engine, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine import Connection as AlchemyConnection
from sqlalchemy.pool import NullPool

from services.extractor.dialects import DialectName, Statement
from services.extractor.readers.sql.driver import Connection, ResultSize, Row, error_of
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, EsclusaError, Refused
from shared.ports import SecretStore

# Quoted things are passed over: names of sources may hold question marks and per cent signs.
_QUOTED_OR_PLACEHOLDER = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[(?:[^\]]|\]\])*\]|(?P<placeholder>\?)"""
)

#: MySQL's drivers decode by what they asked for when they connected. Anything else would lose characters.
_CHARSET_DRIVERS = frozenset({"pymysql", "mysqldb", "mysqlconnector"})

#: How a driver is told to give up connecting, in its own words.
_CONNECT_TIMEOUT_NAMES: Mapping[str, str] = {
    "pymysql": "connect_timeout",
    "mysqldb": "connect_timeout",
    "mysqlconnector": "connection_timeout",
    "psycopg": "connect_timeout",
    "psycopg2": "connect_timeout",
    "pysqlite": "timeout",
}


class AlchemyDriver:
    """Connections by a URL, which is kept elsewhere. See `Driver`."""

    def __init__(
        self,
        reference: str,
        *,
        dialect: DialectName,
        secrets: SecretStore,
        connect_timeout_seconds: int,
        place: str,
    ) -> None:
        self._reference = reference
        self._dialect = dialect
        self._secrets = secrets
        self._connect_timeout_seconds = connect_timeout_seconds
        self._place = place

    def connect(self, *, rows_ahead: int | None = None, is_autocommitting: bool = True) -> Connection:  # noqa: ARG002
        """Open a session; see `Driver`. Each is fit for results of any size, and told at each how many rows to hold."""
        url = self._url()
        errors = _Errors(self._place, self._dialect, url)
        options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if is_autocommitting else {}
        try:
            engine = create_engine(
                url, poolclass=NullPool, connect_args=self._connect_arguments(url), **options
            )
        except (ImportError, exc.NoSuchModuleError) as error:
            raise ConfigurationError(
                f"{self._place}: {self._reference} names a driver for Python that is not installed here "
                f"({url.drivername}: {type(error).__name__})"
            ) from None
        except (exc.SQLAlchemyError, TypeError, ValueError):
            raise self._mistaken() from None
        with errors.translated():
            return SqlalchemyConnection(engine.connect(), errors=errors)

    def _url(self) -> URL:
        text = self._secrets.resolve(self._reference)
        try:
            return make_url(text)
        except (exc.ArgumentError, ValueError):
            # Their text repeats the URL with the password in it.
            raise self._mistaken() from None

    def _mistaken(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self._place}: {self._reference} should hold a SQLAlchemy URL "
            "(mysql+pymysql://user:password@host:port/database), found something else"
        )

    def _connect_arguments(self, url: URL) -> dict[str, Any]:
        library = url.get_driver_name()
        arguments: dict[str, Any] = {"charset": "utf8mb4"} if library in _CHARSET_DRIVERS else {}
        name = _CONNECT_TIMEOUT_NAMES.get(library)
        if name is not None and name not in url.query:
            arguments[name] = self._connect_timeout_seconds
        return arguments


class SqlalchemyConnection:
    """A session through SQLAlchemy. See `Connection`."""

    #: All drivers that were tried stream if SQLAlchemy asks them to.
    holds_results = False

    def __init__(self, connection: AlchemyConnection, *, errors: "_Errors") -> None:
        self._connection = connection
        self._errors = errors
        self._paramstyle = connection.dialect.paramstyle

    def execute(self, sql: str) -> None:
        """Run a statement that gives no rows."""
        with self._errors.translated():
            self._run(Statement(sql)).close()

    def query(self, statement: Statement) -> list[Row]:
        """Return the rows of a query that has few."""
        with self._errors.translated():
            rows = self._run(statement).fetchall()
        return [tuple(None if value is None else str(value) for value in row) for row in rows]

    def stream(self, statement: Statement, size: ResultSize) -> Generator[pa.RecordBatch, None, None]:
        """Read a result of any size, a bounded number of rows at a time."""
        names = [f"c{position}" for position in range(size.column_count)]
        streaming = {"stream_results": True, "yield_per": size.rows_per_batch}
        with self._errors.translated(), self._run(statement, **streaming) as result:
            for rows in result.partitions(size.rows_per_batch):
                columns = zip(*rows, strict=True)
                yield pa.record_batch([pa.array(column, pa.string()) for column in columns], names=names)

    def close(self) -> None:
        """Leave the database."""
        with self._errors.translated():
            self._connection.invalidate()
            self._connection.close()

    def _run(self, statement: Statement, **options: Any) -> Any:
        sql, parameters = in_paramstyle(statement, self._paramstyle)
        return self._connection.exec_driver_sql(sql, parameters, execution_options=options)


class _Errors:
    """Turns SQLAlchemy's errors, and those of the driver below it, into ours."""

    def __init__(self, place: str, dialect: DialectName, url: URL) -> None:
        self._place = place
        self._dialect = dialect
        self._secrets = (str(url.password),) if url.password else ()

    @contextmanager
    def translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise self._error(error.orig) from None
        except exc.SQLAlchemyError as error:
            raise self._error(error) from None
        except (UnicodeError, pa.ArrowInvalid):
            raise Refused(
                Reason.VALUE_NOT_REPRESENTABLE, f"{self._place}: the driver gave text that is not UTF-8"
            ) from None

    def _error(self, error: BaseException | None) -> EsclusaError:
        arguments = getattr(error, "args", ())
        code = arguments[0] if arguments and isinstance(arguments[0], int) else 0
        message = str(arguments[-1]) if arguments else ""
        return error_of(
            self._place,
            dialect=self._dialect,
            state=str(getattr(error, "sqlstate", None) or ""),
            code=code,
            message=message,
            secrets=self._secrets,
        )


def in_paramstyle(statement: Statement, paramstyle: str) -> tuple[str, Any]:
    """
    Return a statement with its placeholders as a driver writes them, and its parameters.

    >>> in_paramstyle(Statement("SELECT `a?%` FROM t WHERE x < ?", ("1",)), "format")
    ('SELECT `a?%%` FROM t WHERE x < %s', ('1',))
    """
    if paramstyle == "qmark":
        return statement.sql, statement.parameters
    is_format = paramstyle in {"format", "pyformat"}
    written: list[str] = []
    end = number = 0
    for found in _QUOTED_OR_PLACEHOLDER.finditer(statement.sql):
        if found["placeholder"]:
            number += 1
            written.append(statement.sql[end : found.start()].replace("%", "%%" if is_format else "%"))
            written.append(
                {"numeric": f":{number}", "numeric_dollar": f"${number}"}.get(paramstyle, f":p{number}")
            )
            if is_format:
                written[-1] = "%s"
            end = found.end()
    written.append(statement.sql[end:].replace("%", "%%" if is_format else "%"))
    if paramstyle == "named":
        return "".join(written), {f"p{n}": value for n, value in enumerate(statement.parameters, start=1)}
    return "".join(written), statement.parameters
