"""A transaction of the PostgreSQL warehouse: its settings, its answers, and its errors in our own words."""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg

from services.publisher import statements
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, Refused, Unavailable

# One value has one text, whatever server, role or database says.
TEXT_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
# A worker that died with its machine lets go of its locks after about a minute.
KEEP_ALIVE_SETTINGS = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}

# The values of the row follow it, and of JSON an excerpt goes before it.
_COPY_CONTEXT = re.compile(r"^COPY \S+, line (?P<line>[0-9]+), column (?P<column>[^:\n]+)", re.MULTILINE)

Cursor: TypeAlias = psycopg.Cursor[Any]


def one(cursor: Cursor, statement: str, values: list[object] | None = None) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = cursor.execute(statement, values).fetchone()
    if row is None:
        raise Unavailable("the warehouse answered a question for one row with none")
    return row


def count(cursor: Cursor, statement: str, values: list[object] | None = None) -> int:
    return int(one(cursor, statement, values)[0])


def settings_of(**timeouts_seconds: float) -> dict[str, str]:
    """Return the settings of a transaction."""
    timeouts = {name: milliseconds(seconds) for name, seconds in timeouts_seconds.items()}
    return {**TEXT_SETTINGS, **KEEP_ALIVE_SETTINGS, **timeouts}


def milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


@contextmanager
def transaction(connection: psycopg.Connection, settings: Mapping[str, str]) -> Generator[Cursor]:
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(statements.SET_FOR_TRANSACTION, [list(settings), list(settings.values())])
        yield cursor


@contextmanager
def translated(target: str) -> Generator[None]:
    """
    Say errors of PostgreSQL in our own words.

    Its texts, and above all its contexts, quote values of rows: none goes on, unless the server had no part in it.
    """
    try:
        yield
    except psycopg.Error as error:
        if error.sqlstate is None:
            if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                raise Unavailable(f"warehouse, {target}: {error}") from error
            raise
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            raise ConfigurationError(
                f"warehouse, {target}: {error.diag.message_primary}; grant it to the publisher's role"
            ) from None
        if _never_fits(error):
            raise Refused(Reason.TARGET_INCOMPATIBLE, f"{target}: {_describe(error)}") from None
        if str(error.sqlstate)[:2] in _ABOUT_NAMES:
            raise
        raise Unavailable(f"warehouse, {target}: {_describe(error)}") from None


#: Classes of errors about names and rights, which no values of rows lead to.
_ABOUT_NAMES = frozenset({"3F", "42"})


def _never_fits(error: psycopg.Error) -> bool:
    """Whether repeating would end the same: values, constraints, limits, dependants."""
    # Source: PostgreSQL manual, "Error Codes": 22 data exception, 23 integrity constraint violation, 54 program
    # limit exceeded, 2BP01 dependent objects still exist, 54000 and 54011 rows and columns above the limits.
    return str(error.sqlstate)[:2] in {"22", "23", "54"} or error.sqlstate == "2BP01"


def _describe(error: psycopg.Error) -> str:
    """Return what may be said of an error: its name, and of the place only names of columns and relations."""
    words = [f"{type(error).__name__} (SQLSTATE {error.sqlstate})"]
    if match := _COPY_CONTEXT.search(error.diag.context or ""):
        words.append(f"row {match['line']} of the batch, column {match['column']!r}")
    if error.diag.constraint_name:
        words.append(f"constraint {error.diag.constraint_name!r}")
    if isinstance(error, psycopg.errors.DependentObjectsStillExist):
        words.append(f"{error.diag.message_detail}; drop it, replay the batch, and create it again")
    return ", ".join(words)
