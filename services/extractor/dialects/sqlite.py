"""
SQLite. A file and no server: its clock is that of the machine that reads it, and nobody bounds a statement but the driver.

A declared type says little there: each value has a storage class of its own. So a value of another class than the
declared type promises becomes a rejected row, and is never converted; a blob where none is declared refuses the batch.
Source: "Datatypes In SQLite", 3.1.
"""

import re
from collections.abc import Sequence

from services.extractor.dialects import (
    Carriage,
    CsvField,
    DialectName,
    Fate,
    QueryDescription,
    Statement,
)
from services.extractor.dialects.holding import holds
from shared.domain.contracts import STRING, ColumnKind, ColumnType

_FIXED_POINT = re.compile(r"(DECIMAL|NUMERIC)\b.*", re.DOTALL)
_MOMENT = re.compile(r"(DATETIME|TIMESTAMP)\b.*", re.DOTALL)

_AS_IT_IS = "each value in its own words"


class SqliteDialect:
    """The SQL of SQLite, from 3.37 on. See `Dialect`."""

    name = DialectName.SQLITE

    # ---- names and types ---------------------------------------------------------------------------------------

    def quote(self, name: str) -> str:
        """
        Return a name in grave accents: a name in double quotes that SQLite does not know is a string to it.

        One with a question mark is in double quotes all the same: SQLite's ODBC driver counts a parameter otherwise.

        >>> SqliteDialect().quote("odd`name")
        '`odd``name`'
        """
        if not name or "\0" in name:
            raise ValueError(f"expected a name of one character or more without NUL, found {name!r}")
        if "?" in name:
            return '"' + name.replace('"', '""') + '"'
        return "`" + name.replace("`", "``") + "`"

    def fate_of(self, source_type: str) -> Fate:
        """
        Return what becomes of a declared type; see `Dialect`.

        >>> str(SqliteDialect().fate_of("UNSIGNED BIG INT").type)
        'int64'
        """
        word = source_type.upper()
        if word in {"BOOLEAN", "BOOL"}:
            return _exact(ColumnKind.BOOLEAN, "0 and 1")
        if "INT" in word:
            return _exact(ColumnKind.INT64)
        if "JSON" in word:
            return _exact(ColumnKind.JSON, "kept as text")
        if "CHAR" in word or "CLOB" in word or "TEXT" in word:
            return _exact(ColumnKind.STRING)
        if "BLOB" in word:
            return _exact(ColumnKind.BINARY, "a text or number in it becomes a rejected row")
        if "REAL" in word or "FLOA" in word or "DOUB" in word:
            return _exact(ColumnKind.FLOAT64, "up to 20 digits; SQLite keeps NaN as NULL")
        if word == "DATE":
            return _exact(ColumnKind.DATE, "kept as `YYYY-MM-DD`; anything else becomes a rejected row")
        if _MOMENT.fullmatch(word):
            return _exact(
                ColumnKind.TIMESTAMP,
                "kept as `YYYY-MM-DD hh:mm:ss[.ffffff]`; anything else becomes a rejected row",
            )
        if _FIXED_POINT.fullmatch(word):
            return _text("kept as a float or integer; may be declared as any decimal")
        return _text(_AS_IT_IS)

    def can_carry(self, source_type: str, declared: ColumnType) -> bool:
        """Return whether a contract may declare this type; see `Dialect`. What does not fit it becomes a rejected row."""
        fate = self.fate_of(source_type)
        if fate.type.kind in {ColumnKind.BINARY, ColumnKind.BOOLEAN}:
            # Its text is not that of the value, so it is no string.
            return declared == fate.type
        if holds(declared, fate.type):
            return True
        # Moments are kept as texts or numbers, by whatever convention. A float is not among them: it would round a
        # large integer.
        return fate.type.kind is not ColumnKind.FLOAT64 and declared.kind in {
            ColumnKind.INT64,
            ColumnKind.DECIMAL,
            ColumnKind.DATE,
            ColumnKind.TIMESTAMP,
            ColumnKind.TIMESTAMPTZ,
            ColumnKind.JSON,
        }

    def text_of(self, quoted_name: str, source_type: str) -> str:
        """Return the expression of a column's text; see `Dialect`."""
        column = quoted_name
        fate = self.fate_of(source_type)
        if fate.type.kind is ColumnKind.BINARY:
            # In brackets it is no spelling of bytes.
            return (
                f"CASE typeof({column}) WHEN 'blob' THEN '\\x' || hex({column}) "
                f"WHEN 'null' THEN NULL ELSE '(' || typeof({column}) || ')' END"
            )
        if fate.type.kind is ColumnKind.BOOLEAN:
            return (
                f"CASE WHEN typeof({column}) = 'integer' AND {column} IN (0, 1) "
                f"THEN CASE {column} WHEN 1 THEN 'true' ELSE 'false' END "
                f"WHEN {column} IS NOT NULL THEN '(' || typeof({column}) || ')' END"
            )
        # A blob is no text, and text it must not become: NUL is what no text of ours may hold.
        return (
            f"CASE typeof({column}) WHEN 'real' THEN {_float_text(column)} "
            f"WHEN 'blob' THEN char(0) || 'blob' ELSE CAST({column} AS TEXT) END"
        )

    # ---- a session, and one snapshot in it ---------------------------------------------------------------------

    @property
    def begins_by_statement(self) -> bool:
        """Yes: BEGIN."""
        return True

    def session_settings(
        self,
        *,
        statement_timeout_seconds: int,  # noqa: ARG002 — there is no server that could hold it
        lock_timeout_seconds: int,
    ) -> Sequence[str]:
        """Return the settings of a session; how long a statement takes is for the driver to bound."""
        return (f"PRAGMA busy_timeout = {lock_timeout_seconds * 1000}", "PRAGMA query_only = ON")

    def begin_snapshot(self) -> Sequence[str]:
        """Return what begins one: the first read after it takes the snapshot."""
        return ("BEGIN",)

    def hold(self, schema: str, name: str, kind: str) -> Sequence[str]:  # noqa: ARG002 — nothing to hold
        """Return nothing: a snapshot has the schema of its moment too."""
        return ()

    def end_snapshot(self) -> Sequence[str]:
        """Return what ends it."""
        return ("ROLLBACK",)

    # ---- the catalogue -----------------------------------------------------------------------------------------

    def clock(self) -> Statement:
        """Return a query of the clock of this machine, to the millisecond; see `Dialect`."""
        return Statement("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000'")

    def oldest_open_transaction(self) -> None:
        """Return None: SQLite shows none."""

    def tables(self) -> Statement:
        """Return a query of tables and views; see `Dialect`."""
        return Statement(f"SELECT schema, name, {_KIND} {_TABLES} ORDER BY name")

    def table(self, schema: str, name: str) -> Statement:
        """Return a query of one table's kind; see `Dialect`."""
        return Statement(f"SELECT {_KIND} {_TABLES} AND schema = ? AND name = ?", (schema, name))

    def columns(self, schema: str, name: str) -> Statement:
        """Return a query of a table's columns, generated ones too; see `Dialect`. A rowid is never NULL."""
        return Statement(
            "SELECT c.name, c.type, CASE WHEN c.\"notnull\" = 1 OR (c.pk = 1 AND upper(c.type) = 'INTEGER' "
            "AND (SELECT count(*) FROM pragma_table_xinfo(?, ?) AS k WHERE k.pk > 0) = 1) THEN '0' ELSE '1' END "
            "FROM pragma_table_xinfo(?, ?) AS c WHERE c.hidden <> 1 ORDER BY c.cid",
            (name, schema, name, schema),
        )

    def key(self, schema: str, name: str) -> Statement:
        """Return a query of the columns of the primary key; see `Dialect`. Its columns may be NULL there."""
        return Statement(
            "SELECT name FROM pragma_table_xinfo(?, ?) WHERE pk > 0 ORDER BY pk",
            (name, schema),
        )

    @property
    def holds_tables_late(self) -> bool:
        """No: a snapshot has all tables of its moment."""
        return False

    def names_of_query(self, query: str) -> None:
        """Return None: the description has them."""

    def describe_query(self, query: str, names: Sequence[str]) -> QueryDescription:  # noqa: ARG002 (the port)
        """Describe a query by a view of the session's own, which lies in no file of the source."""
        return QueryDescription(
            Statement(
                "SELECT name, type, '1' FROM pragma_table_xinfo('esclusa_described', 'temp') ORDER BY cid"
            ),
            before=("PRAGMA query_only = OFF", f"CREATE TEMP VIEW esclusa_described AS {query}"),
            after=("DROP VIEW temp.esclusa_described", "PRAGMA query_only = ON"),
        )

    def some_of(self, expressions: str, relation: str, *, count: int) -> Statement:
        """Return a query of some rows; see `Dialect`."""
        return Statement(f"SELECT {expressions} FROM {relation} LIMIT {count}")

    # ---- reading -----------------------------------------------------------------------------------------------

    def parameter(self, source_type: str) -> str:
        """
        Return the placeholder for a column's type; see `Dialect`.

        Moments are compared as texts. Zeros at the end of their fraction go, so that a moment without a fraction is not
        before the same one with zeros.
        """
        match self.fate_of(source_type).type.kind:
            case ColumnKind.INT64:
                return "CAST(? AS INTEGER)"
            case ColumnKind.FLOAT64:
                return "CAST(? AS REAL)"
            case ColumnKind.DATE:
                return "substr(?, 1, 10)"
            case ColumnKind.TIMESTAMP:
                return "rtrim(rtrim(?, '0'), '.')"
            case ColumnKind.STRING:
                return "?"
            case _:
                raise ValueError(f"expected a type whose values can be compared, found {source_type!r}")

    def in_no_window(self, quoted_name: str, source_type: str) -> str:
        """Return the condition of moments in another spelling than `parameter`'s: as texts they cannot be compared with it."""
        digit = "[0-9]"
        day = f"{digit * 4}-{digit * 2}-{digit * 2}"
        match self.fate_of(source_type).type.kind:
            case ColumnKind.DATE:
                return f"{quoted_name} NOT GLOB '{day}'"
            case ColumnKind.TIMESTAMP:
                second = f"{day} {digit * 2}:{digit * 2}:{digit * 2}"
                return f"({quoted_name} NOT GLOB '{second}' AND {quoted_name} NOT GLOB '{second}.{digit}*')"
            case _:
                return ""

    def record_of(self, fields: Sequence[CsvField]) -> str:
        """Return the expression of a record; see `Dialect`. Whatever the declared type, any value may need quotes."""
        values = [f"coalesce('\"' || replace({field.text}, '\"', '\"\"') || '\"', '')" for field in fields]
        between = [text for value in values for text in (value, "','")][:-1]
        return _concatenated([*between, "char(10)"])

    def cell_of(self, quoted_name: str, bits: int) -> str:
        """Return the expression of a number without its lowest bits. Whatever the declared type, a value may be none."""
        return f"CASE typeof({quoted_name}) WHEN 'integer' THEN {quoted_name} >> {bits} END"

    def hash_of(self, fields: Sequence[CsvField]) -> None:
        """Return None: SQLite has no hash, and no server that would be spared. The rows are read for it."""

    def quarters_of(self, hashed: str) -> Sequence[str]:  # noqa: ARG002 (the port)
        """Return nothing: there is no hash."""
        return ()

    def octets_of(self, text: str) -> str:
        """
        Return an upper bound, whatever encoding the file has, and with the quotes that each value has in `record_of`.

        `length` of a text would end at a NUL in it.
        """
        return f"(length(CAST({text} AS BLOB)) * 2 + 2)"

    def max_octets_of(self, source_type: str) -> int | None:
        """Return None for whatever may hold text, since no declared length is held."""
        return len('"(integer)"') if self.fate_of(source_type).type.kind is ColumnKind.BOOLEAN else None


_KIND = "CASE type WHEN 'view' THEN 'view' ELSE 'table' END"
_TABLES = (
    "FROM pragma_table_list WHERE type IN ('table', 'view', 'virtual') AND schema = 'main' "
    "AND substr(name, 1, 7) <> 'sqlite_'"
)


def _exact(kind: ColumnKind, note: str = "") -> Fate:
    return Fate(ColumnType(kind), Carriage.EXACT, note)


def _text(note: str) -> Fate:
    return Fate(STRING, Carriage.TEXT, note)


def _concatenated(texts: Sequence[str]) -> str:
    """Join by halves: SQLite takes no expression deeper than 1,000. Source: "Implementation Limits For SQLite"."""
    if len(texts) == 1:
        return texts[0]
    middle = len(texts) // 2
    return f"({_concatenated(texts[:middle])} || {_concatenated(texts[middle:])})"


def _float_text(column: str) -> str:
    """
    Return the text of a float that reads back as the same one: 20 digits, or 15 where they are certain to be enough.

    They are for a float that is a whole number divided by 10^6 or 100, for a division is rounded correctly, and every
    decimal of 15 digits comes back from a float. SQLite's own reading of a text is no proof: measured with 3.40, it took
    one float in 50,000 for equal to a text of 15 digits that is another float's, and printed 17 digits wrong for one
    large float in 400. 20 digits were right for all of 600,000.
    """
    fifteen, twenty = f"printf('%!.15g', {column})", f"printf('%!.20g', {column})"
    return (
        f"CASE WHEN abs({column}) = 9e999 THEN iif({column} > 0, 'Infinity', '-Infinity') "
        f"WHEN abs({column}) < 1e9 AND round({column} * 1e6) / 1e6 = {column} THEN {fifteen} "
        f"WHEN abs({column}) < 1e13 AND round({column} * 1e2) / 1e2 = {column} THEN {fifteen} ELSE {twenty} END"
    )
