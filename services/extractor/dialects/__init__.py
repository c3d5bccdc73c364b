"""
What one database product says and understands: SQL text and the fate of its types, and no connection.

A dialect is pure. Which driver carries its statements (ODBC, or whatever SQLAlchemy has) is told in `readers/sql`.
Every value that leaves is rendered as text by the server itself, because drivers change values: MariaDB's ODBC driver
makes -1294967296 of an unsigned 3000000000, and PostgreSQL's makes today's date of `infinity`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from shared.domain.contracts import ColumnType


class DialectName(StrEnum):
    """The database products whose SQL we speak."""

    POSTGRESQL = "postgresql"
    #: MySQL and MariaDB.
    MYSQL = "mysql"
    SQLSERVER = "sqlserver"
    ORACLE = "oracle"
    SQLITE = "sqlite"


class Carriage(StrEnum):
    """How values of a source type are carried."""

    #: In a type of ours that holds each of its values.
    EXACT = "exact"
    #: As a string, in the server's own words.
    TEXT = "text"
    #: Not at all: the column is refused by name.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a column of some source type."""

    type: ColumnType
    carriage: Carriage
    #: Why it is refused, or what its text looks like; empty where nothing needs saying.
    note: str = ""


@dataclass(frozen=True, slots=True)
class CsvField:
    """One value of a record that the server itself writes as CSV."""

    #: The column, quoted.
    quoted_name: str
    #: Its `text_of`.
    text: str
    #: Whether no value of its type can have a character that needs quotes.
    is_plain: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with a `?` for each parameter. Parameters are texts: the SQL itself casts them."""

    sql: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueryDescription:
    """How a product is asked for the columns of a query, of which no row is read."""

    #: A query of the columns in their order: name, source type, `1` or `YES` if nullable.
    columns: Statement
    #: Statements before and after it, outside of a transaction.
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    #: What a login may have to be given for it.
    needs: str = ""


class Dialect(Protocol):
    """The SQL of one database product."""

    @property
    def name(self) -> DialectName:
        """Which product it is."""
        ...

    # Names and types.
    def quote(self, name: str) -> str:
        """
        Return a name as an identifier.

        Raises:
            ValueError: if the product can have no such name.
        """
        ...

    def fate_of(self, source_type: str) -> Fate:
        """Return what becomes of a type, named as `describe` names it."""
        ...

    def can_carry(self, source_type: str, declared: ColumnType) -> bool:
        """Return whether a contract may declare this type for a column of the source's type: no value may change."""
        ...

    def text_of(self, quoted_name: str, source_type: str) -> str:
        """Return the expression whose value is the text of a column, in our CSV's spelling, and NULL for NULL."""
        ...

    # A session, and one snapshot in it.
    @property
    def begins_by_statement(self) -> bool:
        """Whether `begin_snapshot` says so itself, as BEGIN does; else the driver must not commit each statement."""
        ...

    def session_settings(self, *, statement_timeout_seconds: int, lock_timeout_seconds: int) -> Sequence[str]:
        """Return the statements that make one value have one text, and bound how long statements take."""
        ...

    def begin_snapshot(self) -> Sequence[str]:
        """Return the statements after which every read sees one moment of the database, and nothing can be written."""
        ...

    def hold(self, schema: str, name: str, kind: str) -> Sequence[str]:
        """
        Return the statements, right behind `begin_snapshot`, that keep a table as it is until the snapshot ends.

        None where the server does so by itself, or cannot. `kind`: as `table` tells it.
        """
        ...

    def end_snapshot(self) -> Sequence[str]:
        """Return the statements that end it."""
        ...

    # The catalogue.
    def clock(self) -> Statement:
        """Return a query of one row: the server's clock in UTC as `2026-11-22T20:15:00.123456`; NULL if not known."""
        ...

    def oldest_open_transaction(self) -> Statement | None:
        """Return a query of one row: the start, as `clock`, of the oldest open one that may write; None if not shown."""
        ...

    def tables(self) -> Statement:
        """Return a query of every table and view that is not the product's own: schema, name, kind."""
        ...

    def table(self, schema: str, name: str) -> Statement:
        """Return a query of at most one row: the kind of a table or view, as in `tables`."""
        ...

    def columns(self, schema: str, name: str) -> Statement:
        """Return a query of a table's columns in their order: name, source type, `1` if nullable else `0`."""
        ...

    def key(self, schema: str, name: str) -> Statement:
        """Return a query of the columns of a table's primary key, in their order."""
        ...

    def names_of_query(self, query: str) -> Statement | None:
        """
        Return a query of the names of a query's columns, in their order; None if `describe_query` finds them itself.

        `query`: without placeholders; in the place of each stands a NULL of its type.
        """
        ...

    def describe_query(self, query: str, names: Sequence[str]) -> QueryDescription:
        """
        Return how to ask for a query's columns, given their names if `names_of_query` asks for them.

        Raises:
            ValueError: if the product does not tell.
        """
        ...

    @property
    def holds_tables_late(self) -> bool:
        """
        Whether a snapshot can be older than the hold of it on the tables that it reads.

        One that was emptied between the two would be seen empty; what a query reads has to be held by another session.
        """
        ...

    def some_of(self, expressions: str, relation: str, *, count: int) -> Statement:
        """Return a query of no more than so many rows of a relation, whichever: a SELECT list, and a quoted name."""
        ...

    # Reading.
    def parameter(self, source_type: str) -> str:
        """
        Return the placeholder of a value to be compared with a column of a type, such as `CAST(? AS DATETIME(6))`.

        The text of a moment is given as `2026-11-22 20:15:00.123456` in UTC, of an integer as its digits.
        """
        ...

    def in_no_window(self, quoted_name: str, source_type: str) -> str:
        """Return the condition for values of a cursor that no window can hold, NULL aside; empty if there are none."""
        ...

    def record_of(self, fields: Sequence[CsvField]) -> str | None:
        """
        Return the expression of a whole record in our CSV, its line break included; None if the product cannot.

        One text for each row is much faster with any driver than one for each value. It is NULL only if the server
        gave up on a record, and never for what a record holds.
        """
        ...

    # Ranges of a key.
    def cell_of(self, quoted_name: str, bits: int) -> str:
        """
        Return the expression of a whole number without its lowest bits, as `>>` has it in Python; up to 62 bits.

        Of what is no whole number it is NULL.
        """
        ...

    def hash_of(self, fields: Sequence[CsvField]) -> str | None:
        """
        Return the expression of the MD5 of a row, in hexadecimal or bytes, for `quarters_of`; None if there is none.

        Of rows that differ in any value it differs. It is NULL only if the server gave up on a row.
        """
        ...

    def quarters_of(self, hashed: str) -> Sequence[str]:
        """Return the expressions, as texts, of the sums of the four 32-bit numbers that a hash is made of."""
        ...

    def octets_of(self, text: str) -> str:
        """Return the expression of how many bytes a text has in UTF-8, or more."""
        ...

    def max_octets_of(self, source_type: str) -> int | None:
        """Return how many bytes of UTF-8 the text of a value has at most; None if the type does not say."""
        ...
