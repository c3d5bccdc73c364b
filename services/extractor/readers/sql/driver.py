"""
The port to the drivers that carry SQL: connections that answer in bounded time, and errors that tell no value.

A driver gives and takes text only. Whatever it would convert was rendered by the server before.
"""

import re
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Protocol, TypeVar

import pyarrow as pa

from services.extractor.dialects import DialectName, Statement
from shared.deadline import within
from shared.domain.reasons import Reason
from shared.errors import EsclusaError, Refused, SourceConflict, SourceUnavailable, Unavailable

Answer = TypeVar("Answer")

Row = tuple[str | None, ...]

#: What a server gets beyond its own timeouts to say that the time is up.
ANSWER_MARGIN_SECONDS = 5.0
#: Leaving is tried so long, and left to a thread that nobody waits for.
CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ResultSize:
    """What is known of a result before it is read."""

    column_count: int
    #: No text in it has more bytes of UTF-8.
    max_text_octets: int
    #: So many rows are to be held at once, at most.
    rows_per_batch: int


class Connection(Protocol):
    """One session with a database. Every error of the driver's is one of ours."""

    @property
    def holds_results(self) -> bool:
        """Whether the driver holds a whole result before it gives the first row."""
        ...

    def execute(self, sql: str) -> None:
        """Run a statement that gives no rows."""
        ...

    def query(self, statement: Statement) -> list[Row]:
        """Return the rows of a query that has few."""
        ...

    def stream(self, statement: Statement, size: ResultSize) -> Generator[pa.RecordBatch, None, None]:
        """Read a result of any size, as columns of strings."""
        ...

    def close(self) -> None:
        """Leave the database, whatever is under way."""
        ...


class Driver(Protocol):
    """A way to reach a database."""

    def connect(self, *, rows_ahead: int | None = None, is_autocommitting: bool = True) -> Connection:
        """
        Open a session.

        Args:
            rows_ahead: for results of any size, of which the driver itself holds no more rows than these if it can be
                told. None: for few rows.
            is_autocommitting: whether each statement is a transaction of its own unless SQL says otherwise.

        Raises:
            ConfigurationError: if what is said of the connection cannot be right.
            SourceUnavailable: if nobody answers, or nobody of that name is let in.
            SecretNotFound: if the reference leads nowhere.
        """
        ...


# ---- bounded in time ---------------------------------------------------------------------------------------


class WatchedConnection:
    """
    A connection on which nothing takes longer than until its deadline.

    Timeouts of servers are kept by servers, those of drivers by some drivers. So each call is made in a thread of its
    own, and given up when its time is over. Nobody knows the state of such a connection: it is never touched again.
    """

    def __init__(self, connect: Callable[[], Connection], *, seconds: float, place: str) -> None:
        self._place = place
        self._is_given_up = False
        self.allow(seconds)
        self._connection = self._within(connect)

    def allow(self, seconds: float) -> None:
        """Set the deadline anew: so long from now, and a margin for the server to say itself that the time is up."""
        self._deadline = monotonic() + seconds + ANSWER_MARGIN_SECONDS

    @property
    def holds_results(self) -> bool:
        """Whether the driver holds a whole result before it gives the first row."""
        return self._connection.holds_results

    def execute(self, sql: str) -> None:
        """Run a statement that gives no rows."""
        self._within(lambda: self._connection.execute(sql))

    def query(self, statement: Statement) -> list[Row]:
        """Return the rows of a query that has few."""
        return self._within(lambda: self._connection.query(statement))

    def stream(self, statement: Statement, size: ResultSize) -> Generator[pa.RecordBatch, None, None]:
        """Read a result of any size, each batch within the time that is left."""
        batches = self._connection.stream(statement, size)
        try:
            while (batch := self._within(lambda: next(batches, None))) is not None:
                yield batch
        finally:
            if not self._is_given_up:
                batches.close()

    def close(self) -> None:
        """Leave the database; if that takes long, without waiting."""
        if not self._is_given_up:
            with suppress(Unavailable):
                within(timedelta(seconds=CLOSE_SECONDS), self._connection.close, what="leaving a source")

    def _within(self, ask: Callable[[], Answer]) -> Answer:
        has_ended = False

        def run() -> Answer:
            nonlocal has_ended
            try:
                return ask()
            finally:
                has_ended = True

        seconds_left = max(self._deadline - monotonic(), 0.001)
        try:
            return within(timedelta(seconds=seconds_left), run, what=self._place)
        except Unavailable:
            if has_ended:
                raise
            self._is_given_up = True
            raise SourceUnavailable(
                f"{self._place}: no answer in time; the connection was given up"
            ) from None


# ---- errors ------------------------------------------------------------------------------------------------

#: SQLSTATE classes and states whose messages tell of servers, rights and names only. All others may quote values: a
#: view's function can raise any text. Source: PostgreSQL documentation, appendix A; ODBC Programmer's Reference,
#: appendix A.
_SPEAKING_STATES = re.compile(
    r"08...|25...|28...|3D...|3F...|40...|53...|55...|57...|70100|HYT0[01]|IM...|42S02|42S22|42501|42P01|42703"
)
_CONNECTION_STATES = re.compile(r"08...|28...|53...|57...|70100|HYT0[01]|IM...")
_MISSING_STATES = frozenset({"42S02", "42501", "42P01"})
_DATA_STATES = re.compile(r"22...")

#: "No such table" and "not allowed" in the numbers of products that have no SQLSTATE of their own for it.
_MISSING_CODES = {
    DialectName.MYSQL: frozenset({1044, 1142, 1143, 1146, 1227, 1370}),
    DialectName.SQLSERVER: frozenset({208, 229, 230, 297, 300, 916}),
    DialectName.ORACLE: frozenset({942, 1031}),
}
#: Of MySQL, by their number: a driver may give no SQLSTATE. Too many connections, not let in, no such database, lock
#: timeouts, deadlocks, a table changed, a server gone or not there, a query that took too long.
_SPEAKING_CODES = {
    DialectName.MYSQL: frozenset(
        {1040, 1044, 1045, 1049, 1130, 1142, 1143, 1146, 1203, 1205, 1213, 1226, 1227, 1317, 1370, 1412, 1969}
        | {2002, 2003, 2005, 2006, 2013, 2055, 3024}
    ),
}


#: Others hold what is needed, or change it: the same read again, whole, may do.
_CONFLICT_STATES = re.compile(r"40...|55P03")
_CONFLICT_CODES = {
    DialectName.MYSQL: frozenset({1205, 1213, 1412}),
    DialectName.SQLSERVER: frozenset({1205, 1222, 3960}),
    DialectName.ORACLE: frozenset({60, 8177, 1555}),
    DialectName.SQLITE: frozenset({5, 6}),
}


class ServerError(SourceUnavailable):
    """
    What a server says of a statement, or of its own state.

    Attributes:
        first_line: its own words, which no message and no log repeats: they may quote values of rows. Empty if the
            connection is what failed, and if a secret is in them.
    """

    def __init__(self, message: str, *, first_line: str) -> None:
        super().__init__(message)
        self.first_line = first_line


def error_of(
    place: str,
    *,
    dialect: DialectName,
    state: str,
    code: int = 0,
    message: str,
    secrets: tuple[str, ...] = (),
) -> EsclusaError:
    """
    Return an error of a driver as one of ours.

    The driver's words are kept where they tell of names and servers only, in their first line, and only if no secret
    is in them.
    """
    said = _said(dialect, state=state, code=code, message=message, secrets=secrets)
    if state in _MISSING_STATES or code in _MISSING_CODES.get(dialect, ()):
        return Refused(Reason.TABLE_MISSING, f"{place}: {said}")
    if _DATA_STATES.fullmatch(state):
        return Refused(
            Reason.VALUE_NOT_REPRESENTABLE,
            f"{place}: a value cannot be computed, or converted to UTF-8 ({said})",
        )
    if _CONFLICT_STATES.fullmatch(state) or code in _CONFLICT_CODES.get(dialect, ()):
        return SourceConflict(f"{place}: {said}")
    is_hidden = any(secret in message for secret in secrets if secret)
    is_of_connection = _CONNECTION_STATES.fullmatch(state) is not None
    first_line = "" if is_hidden or is_of_connection else message.strip().partition("\n")[0]
    return ServerError(f"{place}: {said}", first_line=first_line)


def _said(dialect: DialectName, *, state: str, code: int, message: str, secrets: tuple[str, ...]) -> str:
    name = (
        ", ".join([*([f"SQLSTATE {state}"] if state else []), *([f"error {code}"] if code else [])])
        or "an error without a number"
    )
    speaks = _SPEAKING_STATES.fullmatch(state) or code in _SPEAKING_CODES.get(dialect, ())
    first_line = message.strip().partition("\n")[0]
    if not speaks or any(secret in message for secret in secrets if secret):
        return f"{name}; the server's own log tells more"
    return f"{name}: {first_line}"
