"""
Any database with an ODBC driver: `arrow-odbc` for results of any size, `pyodbc` for all else.

arrow-odbc fetches many rows at a time into buffers of a fixed size for each value, several times as fast as pyodbc's
row by row. A value that does not fit is an error of its own, never a cut value: psqlodbc, MariaDB's and SQLite's
drivers were tried. pyodbc asks for no sizes, so what has few rows, and the catalogue, comes through it.

Drivers are told what they would not do by themselves. Measured with psqlodbc 13.02 and Connector/ODBC 3.1.15.
"""

import re
import traceback
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import arrow_odbc
import pyarrow as pa
import pyodbc

from services.extractor.dialects import DialectName, Statement
from services.extractor.readers.sql.driver import Connection, ResultSize, Row, error_of
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, EsclusaError, Refused, SourceUnavailable
from shared.ports import SecretStore

# Ours are kept by their reader, and a snapshot must not begin on a session that somebody used before.
pyodbc.pooling = False

#: The catalogue's longest texts are lists of an enum's members.
MAX_CATALOGUE_TEXT_OCTETS = 64 * 1024
CATALOGUE_ROWS_PER_BATCH = 64

_KEYWORD = re.compile(r"\s*([^=;{}]+?)\s*=\s*(\{(?:[^}]|\}\})*\}|[^;]*)\s*(?:;|$)")
_SECRET_KEYWORDS = frozenset({"pwd", "password", "token", "accesstoken"})

_ARROW_ERROR = re.compile(
    r"State: (?P<state>\w{5}), Native error: (?P<code>-?\d+), Message: (?P<message>.*)", re.DOTALL
)
_ARROW_TRUNCATION = "too large to be written into the allocated buffer"
_PYODBC_CODE = re.compile(r"\((?P<code>-?\d+)\) \(SQL\w+\)")


@dataclass(frozen=True, slots=True)
class DriverTraits:
    """What one driver has to be told, and how it gives texts."""

    keywords: Mapping[str, str] = field(default_factory=dict)
    #: It cannot give many rows at a time: it says of no text how long it is.
    fetches_rows: bool = False
    #: It holds whole results in every version before this one, whatever it is told.
    streams_from_version: tuple[int, ...] = ()
    #: How it is told how many rows to hold.
    rows_ahead_keyword: str = ""
    #: Whether it gives arrow-odbc UTF-8 in narrow characters, whatever the locale of the process. Else texts are asked
    #: for in UTF-16.
    is_utf8: bool = False
    #: The same of pyodbc, which asks in another order. Measured under two locales: what is not told so here gives some
    #: characters wrong in narrow form, and all of them right in UTF-16.
    is_utf8_by_rows: bool = False


# Without UseDeclareFetch the driver holds the whole result; it announces no text to be longer than MaxLongVarcharSize.
_PSQLODBC = DriverTraits(
    {
        "UseDeclareFetch": "1",
        "MaxVarcharSize": "1073741823",
        "MaxLongVarcharSize": "1073741823",
        "LFConversion": "0",
    },
    is_utf8=True,
    rows_ahead_keyword="Fetch",
)

#: By how the driver names its own library; the first that fits.
_TRAITS: Mapping[str, DriverTraits] = MappingProxyType(
    {
        # The ANSI build has no wide characters at all. Those of the other go through the locale for arrow-odbc: in a
        # process without one, every text but ASCII would be an error.
        "psqlodbca": replace(_PSQLODBC, is_utf8_by_rows=True),
        "psqlodbc": _PSQLODBC,
        # Source: release notes of Connector/ODBC 3.1.17, "Result set streaming has been added".
        "libmaodbc": DriverTraits(
            {"CHARSET": "utf8mb4", "NO_CACHE": "1", "FORWARDONLY": "1"},
            streams_from_version=(3, 1, 17),
            is_utf8=True,
        ),
        # Of the Connector/ODBC of MySQL; after its documentation.
        "libmyodbc": DriverTraits(
            {"CHARSET": "utf8mb4", "NO_CACHE": "1", "FORWARD_CURSOR": "1"}, is_utf8=True
        ),
        # Announces 255 characters for every text. Without StepAPI it holds the whole result.
        "libsqlite3odbc": DriverTraits({"StepAPI": "1"}, is_utf8_by_rows=True, fetches_rows=True),
        "sqlite3odbc": DriverTraits({"StepAPI": "1"}, is_utf8_by_rows=True, fetches_rows=True),
    }
)
_OTHER_TRAITS = DriverTraits()


class OdbcDriver:
    """Connections by a DSN or connection string, which is kept elsewhere. See `Driver`."""

    def __init__(
        self,
        reference: str,
        *,
        dialect: DialectName,
        secrets: SecretStore,
        connect_timeout_seconds: int,
        place: str,
        fetches_rows: bool = False,
    ) -> None:
        """`fetches_rows`: read by pyodbc also in bulk, for drivers that cannot fetch many rows at a time."""
        self._reference = reference
        self._dialect = dialect
        self._secrets = secrets
        self._connect_timeout_seconds = connect_timeout_seconds
        self._place = place
        self._fetches_rows = fetches_rows
        self._traits: DriverTraits | None = None
        self._holds_results = False

    def connect(self, *, rows_ahead: int | None = None, is_autocommitting: bool = True) -> Connection:
        """Open a session; see `Driver`."""
        text = self._secrets.resolve(self._reference)
        errors = _Errors(self._place, self._dialect, secrets_in(text))
        if self._traits is None:
            with (
                errors.translated(),
                self._mistakes_named(),
                _opened(text, self._connect_timeout_seconds) as probe,
            ):
                self._traits = traits_of(str(probe.getinfo(pyodbc.SQL_DRIVER_NAME)))
                version = version_of(str(probe.getinfo(pyodbc.SQL_DRIVER_VER)))
                self._holds_results = version < self._traits.streams_from_version
        text = with_keywords(text, self._traits.keywords)
        if rows_ahead is not None and self._traits.rows_ahead_keyword:
            text = with_keywords(text, {self._traits.rows_ahead_keyword: str(rows_ahead)})
        with errors.translated():
            if rows_ahead is not None and not (self._fetches_rows or self._traits.fetches_rows):
                bulk = arrow_odbc.connect(
                    text, login_timeout_sec=self._connect_timeout_seconds, autocommit=is_autocommitting
                )
                return ArrowConnection(
                    bulk, traits=self._traits, holds_results=self._holds_results, errors=errors
                )
            plain = pyodbc.connect(text, timeout=self._connect_timeout_seconds, autocommit=is_autocommitting)
            return PyodbcConnection(
                plain, traits=self._traits, holds_results=self._holds_results, errors=errors
            )

    @contextmanager
    def _mistakes_named(self) -> Iterator[None]:
        """Name the reference to a connection string that leads to no driver. The string itself is not shown."""
        try:
            yield
        except pyodbc.Error as error:
            state = str(error.args[0])
            if not state.startswith("IM") and "Can't open lib" not in str(error):
                raise
            raise ConfigurationError(
                f"{self._place}: {self._reference} should hold an ODBC connection string (Driver={{…}};Server=…;…) or "
                f"DSN=…, of a driver or data source that is installed here; found another ({state}). Installed: "
                f"{', '.join(pyodbc.drivers()) or 'none'}"
            ) from None


class PyodbcConnection:
    """A session through pyodbc. See `Connection`."""

    def __init__(
        self, connection: pyodbc.Connection, *, traits: DriverTraits, holds_results: bool, errors: "_Errors"
    ) -> None:
        self.holds_results = holds_results
        self._connection = connection
        self._errors = errors
        connection.setdecoding(pyodbc.SQL_CHAR, encoding="utf-8")
        if traits.is_utf8_by_rows:
            connection.setdecoding(pyodbc.SQL_WCHAR, encoding="utf-8", ctype=pyodbc.SQL_CHAR)
            connection.setencoding(encoding="utf-8", ctype=pyodbc.SQL_CHAR)

    def execute(self, sql: str) -> None:
        """Run a statement that gives no rows."""
        with self._errors.translated():
            self._connection.execute(sql).close()

    def query(self, statement: Statement) -> list[Row]:
        """Return the rows of a query that has few."""
        with self._errors.translated(), self._cursor(statement) as cursor:
            return [_as_texts(row) for row in cursor.fetchall()]

    def stream(self, statement: Statement, size: ResultSize) -> Generator[pa.RecordBatch, None, None]:
        """Read a result of any size by rows."""
        schema = string_schema(size.column_count)
        with self._errors.translated(), self._cursor(statement) as cursor:
            while rows := cursor.fetchmany(size.rows_per_batch):
                yield pa.record_batch(
                    [pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema
                )

    def close(self) -> None:
        """Leave the database."""
        with self._errors.translated():
            self._connection.close()

    @contextmanager
    def _cursor(self, statement: Statement) -> Iterator[pyodbc.Cursor]:
        cursor = self._connection.cursor()
        try:
            cursor.execute(statement.sql, *statement.parameters)
            yield cursor
        finally:
            cursor.close()


class ArrowConnection:
    """A session through arrow-odbc. See `Connection`."""

    def __init__(
        self,
        connection: arrow_odbc.Connection,
        *,
        traits: DriverTraits,
        holds_results: bool,
        errors: "_Errors",
    ) -> None:
        self.holds_results = holds_results
        self._connection: arrow_odbc.Connection | None = connection
        self._errors = errors
        self._encoding = arrow_odbc.TextEncoding.AUTO if traits.is_utf8 else arrow_odbc.TextEncoding.UTF16

    def execute(self, sql: str) -> None:
        """Run a statement that gives no rows."""
        with self._errors.translated():
            self._open.execute(sql)

    def query(self, statement: Statement) -> list[Row]:
        """Return the rows of a query that has few."""
        rows: list[Row] = []
        with self._errors.translated():
            for batch in self._read(
                statement, max_text_octets=MAX_CATALOGUE_TEXT_OCTETS, rows_per_batch=CATALOGUE_ROWS_PER_BATCH
            ):
                rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
        return rows

    def stream(self, statement: Statement, size: ResultSize) -> Generator[pa.RecordBatch, None, None]:
        """Read a result of any size, many rows at a time."""
        with self._errors.translated():
            yield from self._read(
                statement, max_text_octets=size.max_text_octets, rows_per_batch=size.rows_per_batch
            )

    def close(self) -> None:
        """Leave the database. By itself arrow-odbc does so with the last reference, which an error's traceback may hold."""
        if self._connection is not None:
            self._connection.__del__()
            self._connection.handle = None
            self._connection = None

    def _read(
        self, statement: Statement, *, max_text_octets: int, rows_per_batch: int
    ) -> arrow_odbc.BatchReader:
        return self._open.read_arrow_batches(
            statement.sql,
            parameters=list(statement.parameters) or None,
            # What the driver makes of a type is not asked: every value is a text already.
            map_schema=lambda schema: string_schema(len(schema)),
            batch_size=rows_per_batch,
            max_bytes_per_batch=None,
            max_text_size=max_text_octets,
            # Rather an error than the end of the process.
            falliable_allocations=True,
            fetch_concurrently=False,
            payload_text_encoding=self._encoding,
        )

    @property
    def _open(self) -> arrow_odbc.Connection:
        if self._connection is None:
            raise ValueError("the connection is closed")
        return self._connection


@dataclass(frozen=True, slots=True)
class _Errors:
    """Turns the errors of both libraries into ours."""

    place: str
    dialect: DialectName
    secrets: tuple[str, ...]

    @contextmanager
    def translated(self) -> Iterator[None]:
        try:
            yield
        except pyodbc.Error as error:
            state, message = str(error.args[0]), str(error.args[-1])
            found = _PYODBC_CODE.search(message)
            code = int(found["code"]) if found else 0
            raise self._error(state if re.fullmatch(r"\w{5}", state) else "", code, message) from None
        except arrow_odbc.Error as error:
            # Its frames hold the reader, and with it the session and its locks, as long as somebody holds the error.
            traceback.clear_frames(error.__traceback__)
            raise self._arrow_error(str(error)) from None
        except UnicodeDecodeError:
            raise Refused(
                Reason.VALUE_NOT_REPRESENTABLE, f"{self.place}: the driver gave text that is not UTF-8"
            ) from None

    def _arrow_error(self, message: str) -> EsclusaError:
        if _ARROW_TRUNCATION in message:
            return Refused(
                Reason.VALUE_NOT_REPRESENTABLE,
                f"{self.place}: a value is longer than the driver announced, and was not cut; let `fetch: rows` read it",
            )
        if found := _ARROW_ERROR.search(message):
            return self._error(found["state"], int(found["code"]), found["message"])
        # Such as a text that is not UTF-8; its words repeat no value, but nobody promises that.
        return SourceUnavailable(f"{self.place}: arrow-odbc cannot read what the driver gave")

    def _error(self, state: str, code: int, message: str) -> EsclusaError:
        return error_of(
            self.place, dialect=self.dialect, state=state, code=code, message=message, secrets=self.secrets
        )


def traits_of(library: str) -> DriverTraits:
    """Return what is known of a driver by the name of its library, such as `psqlodbcw.so`."""
    for beginning, traits in _TRAITS.items():
        if library.lower().startswith(beginning):
            return traits
    return _OTHER_TRAITS


def version_of(text: str) -> tuple[int, ...]:
    """
    Return a driver's version, as `SQL_DRIVER_VER` has it, as numbers.

    >>> version_of("03.01.0015")
    (3, 1, 15)
    """
    return tuple(int(number) for number in re.findall(r"\d+", text))


def with_keywords(connection_string: str, keywords: Mapping[str, str]) -> str:
    """
    Return a connection string with more keywords. What it says itself stays.

    >>> with_keywords("DSN=shop;Fetch=5", {"fetch": "100", "UseDeclareFetch": "1"})
    'DSN=shop;Fetch=5;UseDeclareFetch=1'
    """
    present = {name.lower() for name, _ in _KEYWORD.findall(connection_string)}
    added = [f"{name}={value}" for name, value in keywords.items() if name.lower() not in present]
    return ";".join([connection_string.rstrip("; \n"), *added])


def secrets_in(connection_string: str) -> tuple[str, ...]:
    """
    Return the values of a connection string that no message may repeat.

    >>> secrets_in("DSN=shop;UID=reader;Pwd={a;}}b}")
    ('{a;}}b}', 'a;}b')
    """
    found: list[str] = []
    for name, value in _KEYWORD.findall(connection_string):
        if name.lower() in _SECRET_KEYWORDS and value:
            found.append(value)
            if value.startswith("{"):
                found.append(value[1:-1].replace("}}", "}"))
    return tuple(found)


def string_schema(column_count: int) -> pa.Schema:
    """Return a schema of strings. Columns are named by position: names of sources are never given to libraries."""
    return pa.schema([(f"c{position}", pa.string()) for position in range(column_count)])


def _as_texts(row: Any) -> Row:
    return tuple(None if value is None else str(value) for value in row)


@contextmanager
def _opened(connection_string: str, timeout_seconds: int) -> Iterator[pyodbc.Connection]:
    connection = pyodbc.connect(connection_string, timeout=timeout_seconds)
    try:
        yield connection
    finally:
        connection.close()
