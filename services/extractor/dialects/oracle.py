"""
Oracle Database, from 12.2 on. Written after Oracle's documentation; not run against a server.

Two things to know of it: an empty string *is* NULL there and arrives as NULL, and a transaction has no BEGIN. It begins
with `SET TRANSACTION READ ONLY`, so the session must not commit by itself.

Sources: "SQL Language Reference" 19c (data types, format models, SET TRANSACTION, ALTER SESSION), "Database Reference"
(ALL_TAB_COLUMNS, ALL_CONSTRAINTS, V$TRANSACTION).
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
from shared.domain.contracts import MAX_DECIMAL_PRECISION, STRING, ColumnKind, ColumnType

#: Source: "Database Object Names and Qualifiers". Before 12.2 it was 30.
MAX_NAME_BYTES = 128
#: Of a VARCHAR2 in SQL, unless MAX_STRING_SIZE is EXTENDED.
MAX_VARCHAR2_BYTES = 4000

# As `columns` writes them: the digits stand after the first word, as in `TIMESTAMP(6) WITH TIME ZONE`.
_TYPE = re.compile(
    r"(?P<head>[A-Z0-9_]+(?: [A-Z]+)*?)(?:\((?P<first>\*|\d+)(?:,(?P<second>-?\d+))?\))?(?P<tail>(?: [A-Z]+)*)(?:\(\d+\))?"
)

_NUMERIC_CHARACTERS = "'NLS_NUMERIC_CHARACTERS=''.,'''"
# With its sign: `YYYY` would make the year 44 of 44 BC. The blank of the others is cut off.
_SECOND = "SYYYY-MM-DD HH24:MI:SS"
_PARAMETER_FORMAT = "'YYYY-MM-DD HH24:MI:SS.FF6'"

_WITH_ZONE, _WITH_LOCAL_ZONE = "TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH LOCAL TIME ZONE"
_NO_EMPTY_STRING = "the empty string is NULL"

_REFUSED = {
    "LONG": "no SQL function takes it; give a table or view that has it as CLOB (TO_LOB)",
    "LONG RAW": "no SQL function takes it; give a table or view that has it as CLOB (TO_LOB)",
    "BLOB": "SQL has no text for more than 2,000 bytes of it; give a view for short ones (RAWTOHEX)",
    "BFILE": "the value is a file outside of the database",
    "VECTOR": "its text is not documented to be exact; give a view that casts it",
}


class OracleDialect:
    """The SQL of Oracle Database. See `Dialect`."""

    name = DialectName.ORACLE

    # ---- names and types ---------------------------------------------------------------------------------------

    def quote(self, name: str) -> str:
        """
        Return a name in double quotes, spelled as the catalogue has it.

        >>> OracleDialect().quote("ORDERS")
        '"ORDERS"'
        """
        # No name of Oracle has a quotation mark in it, doubled or not.
        if not 1 <= len(name.encode()) <= MAX_NAME_BYTES or '"' in name or "\0" in name:
            raise ValueError(
                f"expected a name of 1 to {MAX_NAME_BYTES} bytes without quotation mark and NUL, found {name!r}"
            )
        return f'"{name}"'

    def fate_of(self, source_type: str) -> Fate:
        """Return what becomes of a type, named as `columns` names it; see `Dialect`."""
        word, first, second = _parsed(source_type)
        match word:
            case "NUMBER" if first not in {None, "*"}:
                return _fate_of_number(precision=int(first or 0), scale=int(second or 0))
            case "NUMBER" | "FLOAT":
                return _text(
                    "up to 40 digits; may be declared as any decimal or int64: what does not fit is rejected"
                )
            case "BINARY_FLOAT":
                return _exact(ColumnKind.FLOAT32, "9 digits; the server itself makes 0 of -0")
            case "BINARY_DOUBLE":
                return _exact(ColumnKind.FLOAT64, "17 digits; the server itself makes 0 of -0")
            case "VARCHAR2" | "NVARCHAR2" | "CLOB" | "NCLOB":
                return _exact(ColumnKind.STRING, _NO_EMPTY_STRING)
            case "CHAR" | "NCHAR":
                return _exact(ColumnKind.STRING, f"with its trailing blanks; {_NO_EMPTY_STRING}")
            case "RAW":
                return _exact(ColumnKind.BINARY, "no bytes are NULL")
            case "DATE":
                return _exact(ColumnKind.TIMESTAMP, "it has a time, to the second; BC becomes rejected rows")
            case "TIMESTAMP" | "TIMESTAMP WITH LOCAL TIME ZONE":
                return _fate_of_timestamp(word, digits=int(first or 6))
            case "TIMESTAMP WITH TIME ZONE":
                return _text(
                    "with its offset, without the name of its region; as `timestamptz` the moment alone, without either"
                )
            case "BOOLEAN":
                return _exact(ColumnKind.BOOLEAN, "from 23ai on")
            case _:
                return _TEXTS.get(word) or _refused(
                    _REFUSED.get(word, "this type is not known; give a view that casts it")
                )

    def can_carry(self, source_type: str, declared: ColumnType) -> bool:
        """Return whether a contract may declare this type; see `Dialect`."""
        fate = self.fate_of(source_type)
        if fate.carriage is Carriage.REFUSED:
            return False
        if holds(declared, fate.type):
            return True
        word, _, _ = _parsed(source_type)
        return fate.carriage is Carriage.TEXT and declared.kind in _MAY_ALSO.get(word, ())

    def text_of(self, quoted_name: str, source_type: str) -> str:  # noqa: PLR0912 — one arm for each spelling
        """Return the expression of a column's text; see `Dialect`."""
        word, first, second = _parsed(source_type)
        column = quoted_name
        match word:
            case "NUMBER" if self.fate_of(source_type).carriage is Carriage.EXACT:
                return _formatted(column, _number_format(precision=int(first or 0), scale=int(second or 0)))
            case "NUMBER" | "FLOAT":
                # TM9 leaves out the zero before the point.
                return f"REGEXP_REPLACE({_formatted(column, 'TM9')}, '^(-?)[.]', '\\10.')"
            case "BINARY_FLOAT":
                return _float_text(column, digits=9)
            case "BINARY_DOUBLE":
                return _float_text(column, digits=17)
            case "CHAR" | "VARCHAR2" | "NCHAR" | "NVARCHAR2" | "CLOB" | "NCLOB":
                return column
            case "RAW":
                # NULL is the empty string, so it would become `\x`; and a VARCHAR2 ends at 4,000 bytes.
                prefix = "'\\x'" if 2 + 2 * int(first or 0) <= MAX_VARCHAR2_BYTES else "TO_CLOB('\\x')"
                return f"CASE WHEN {column} IS NOT NULL THEN {prefix} || RAWTOHEX({column}) END"
            case "DATE":
                return f"LTRIM(TO_CHAR({column}, '{_SECOND}'))"
            case "TIMESTAMP":
                return f"LTRIM(TO_CHAR({column}, '{_SECOND}{_fraction(first)}'))"
            case "TIMESTAMP WITH TIME ZONE":
                return f"LTRIM(TO_CHAR({column}, '{_SECOND}{_fraction(first)}TZH:TZM'))"
            case "TIMESTAMP WITH LOCAL TIME ZONE":
                return f"LTRIM(TO_CHAR({column} AT TIME ZONE 'UTC', '{_SECOND}{_fraction(first)}TZH:TZM'))"
            case "INTERVAL YEAR TO MONTH" | "INTERVAL DAY TO SECOND":
                return f"TO_CHAR({column})"
            case "ROWID":
                return f"ROWIDTOCHAR({column})"
            case "UROWID":
                return f"CAST({column} AS VARCHAR2({MAX_VARCHAR2_BYTES}))"
            case "XMLTYPE":
                return f"XMLSERIALIZE(CONTENT {column} AS CLOB)"
            case "JSON":
                return f"JSON_SERIALIZE({column} RETURNING CLOB)"
            case "BOOLEAN":
                return f"CASE WHEN {column} THEN 'true' WHEN NOT {column} THEN 'false' END"
            case _:
                raise ValueError(f"{source_type!r} is refused: {self.fate_of(source_type).note}")

    # ---- a session, and one snapshot in it ---------------------------------------------------------------------

    @property
    def begins_by_statement(self) -> bool:
        """No: a transaction begins by itself, so the driver must not commit each statement."""
        return False

    def session_settings(
        self,
        *,
        statement_timeout_seconds: int,  # noqa: ARG002 — a session has no such setting, its drivers do
        lock_timeout_seconds: int,  # noqa: ARG002 — a reader waits for no lock
    ) -> Sequence[str]:
        """Return the settings of a session; how long a statement takes is for the driver to bound."""
        return (
            "ALTER SESSION SET TIME_ZONE = '+00:00'",
            "ALTER SESSION SET NLS_CALENDAR = 'GREGORIAN'",
            "ALTER SESSION SET NLS_NUMERIC_CHARACTERS = '.,'",
            "ALTER SESSION SET NLS_DATE_LANGUAGE = 'AMERICAN'",
            f"ALTER SESSION SET NLS_DATE_FORMAT = '{_SECOND}'",
            f"ALTER SESSION SET NLS_TIMESTAMP_FORMAT = '{_SECOND}.FF9'",
            "ALTER SESSION SET NLS_COMP = BINARY",
            "ALTER SESSION SET NLS_SORT = BINARY",
        )

    def begin_snapshot(self) -> Sequence[str]:
        """Return what begins one, as the first statement of a transaction. A long one may end with ORA-01555."""
        return ("ROLLBACK", "SET TRANSACTION READ ONLY")

    def hold(self, schema: str, name: str, kind: str) -> Sequence[str]:  # noqa: ARG002 — nothing to hold
        """Return nothing: a read-only transaction takes no lock, and a read of an altered table fails (ORA-01466)."""
        return ()

    def end_snapshot(self) -> Sequence[str]:
        """Return what ends it."""
        return ("ROLLBACK",)

    # ---- the catalogue -----------------------------------------------------------------------------------------

    def clock(self) -> Statement:
        """Return a query of the server's clock; see `Dialect`."""
        return Statement(_utc_text("SYSTIMESTAMP"))

    def oldest_open_transaction(self) -> Statement:
        """Return a query of the start of the oldest transaction that writes; see `Dialect`. Needs SELECT on V_$TRANSACTION."""
        started = "MIN(FROM_TZ(CAST(t.START_DATE AS TIMESTAMP), TO_CHAR(SYSTIMESTAMP, 'TZH:TZM')))"
        return Statement(_utc_text(started, source="V$TRANSACTION t"))

    def tables(self) -> Statement:
        """Return a query of tables and views; see `Dialect`."""
        return Statement(f"SELECT o.OWNER, o.OBJECT_NAME, {_KIND} {_OBJECTS} ORDER BY o.OWNER, o.OBJECT_NAME")

    def table(self, schema: str, name: str) -> Statement:
        """Return a query of one table's kind; see `Dialect`."""
        return Statement(f"SELECT {_KIND} {_OBJECTS} AND o.OWNER = ? AND o.OBJECT_NAME = ?", (schema, name))

    def columns(self, schema: str, name: str) -> Statement:
        """Return a query of a table's columns; see `Dialect`."""
        return Statement(_COLUMNS, (schema, name))

    def key(self, schema: str, name: str) -> Statement:
        """Return a query of the columns of the primary key; see `Dialect`. One that is not enforced is none."""
        return Statement(
            "SELECT k.COLUMN_NAME FROM ALL_CONSTRAINTS c "
            "JOIN ALL_CONS_COLUMNS k ON k.OWNER = c.OWNER AND k.CONSTRAINT_NAME = c.CONSTRAINT_NAME "
            "WHERE c.CONSTRAINT_TYPE = 'P' AND c.STATUS = 'ENABLED' AND c.VALIDATED = 'VALIDATED' "
            "AND c.OWNER = ? AND c.TABLE_NAME = ? ORDER BY k.POSITION",
            (schema, name),
        )

    @property
    def holds_tables_late(self) -> bool:
        """No: a table that changed after the snapshot raises ORA-01466."""
        return False

    def names_of_query(self, query: str) -> None:
        """Return None: no query is described."""

    def describe_query(self, query: str, names: Sequence[str]) -> QueryDescription:  # noqa: ARG002 (the port)
        """Raise: only PL/SQL would tell, and a view at the source does as well."""
        raise ValueError("expected a view, found a query: Oracle does not tell the columns of a query")

    def some_of(self, expressions: str, relation: str, *, count: int) -> Statement:
        """Return a query of some rows; see `Dialect`."""
        return Statement(f"SELECT {expressions} FROM {relation} FETCH FIRST {count} ROWS ONLY")

    # ---- reading -----------------------------------------------------------------------------------------------

    def parameter(self, source_type: str) -> str:
        """Return the placeholder for a column's type; see `Dialect`. Of the column's own type, so that an index serves."""
        word, _, _ = _parsed(source_type)
        match word:
            case "DATE":
                # Cut to the second, as the column is: compared with a TIMESTAMP it would lose its index.
                return "TO_DATE(SUBSTR(?, 1, 19), 'YYYY-MM-DD HH24:MI:SS')"
            case "TIMESTAMP":
                return f"TO_TIMESTAMP(?, {_PARAMETER_FORMAT})"
            case "TIMESTAMP WITH TIME ZONE":
                return f"FROM_TZ(TO_TIMESTAMP(?, {_PARAMETER_FORMAT}), '+00:00')"
            case "TIMESTAMP WITH LOCAL TIME ZONE":
                moment = f"FROM_TZ(TO_TIMESTAMP(?, {_PARAMETER_FORMAT}), '+00:00')"
                return f"CAST({moment} AS TIMESTAMP WITH LOCAL TIME ZONE)"
            case "NUMBER" | "FLOAT":
                return "TO_NUMBER(?)"
            case "VARCHAR2" | "CHAR":
                return "TO_CHAR(?)"
            case "NVARCHAR2" | "NCHAR":
                return "TO_NCHAR(?)"
            case _:
                raise ValueError(f"expected a type whose values can be compared, found {source_type!r}")

    def in_no_window(self, quoted_name: str, source_type: str) -> str:  # noqa: ARG002 — no such values
        """Return nothing: no moment of Oracle lies outside all windows."""
        return ""

    def record_of(self, fields: Sequence[CsvField]) -> str | None:  # noqa: ARG002 — a VARCHAR2 ends at 4,000 bytes
        """Return None: columns are selected one by one."""
        return None

    def cell_of(self, quoted_name: str, bits: int) -> str:
        """Return the expression of a number without its lowest bits. NUMBER has 38 digits: nothing is rounded here."""
        return f"CASE WHEN {quoted_name} = FLOOR({quoted_name}) THEN FLOOR({quoted_name} / {1 << bits}) END"

    def hash_of(self, fields: Sequence[CsvField]) -> None:
        """Return None: STANDARD_HASH takes no CLOB, and DBMS_CRYPTO has to be granted. The rows are read for it."""

    def quarters_of(self, hashed: str) -> Sequence[str]:  # noqa: ARG002 (the port)
        """Return nothing: there is no hash."""
        return ()

    def octets_of(self, text: str) -> str:
        """Return an upper bound: LENGTHB takes no CLOB, and a character has four bytes at most."""
        return f"LENGTH({text}) * 4"

    def max_octets_of(self, source_type: str) -> int | None:
        """Return how long a text can be in UTF-8; None for types without a bound."""
        word, first, _ = _parsed(source_type)
        match word:
            case "CHAR" | "VARCHAR2" | "NCHAR" | "NVARCHAR2":
                return 4 * int(first or 0)
            case "RAW":
                return 2 + 2 * int(first or 0)
            case "CLOB" | "NCLOB" | "XMLTYPE" | "JSON":
                return None
            case "UROWID":
                return MAX_VARCHAR2_BYTES
            case _:
                return 128


_KIND = "CASE o.OBJECT_TYPE WHEN 'VIEW' THEN 'view' ELSE 'table' END"
# A materialized view is in it as a table too. `BIN$…` is what was dropped and may come back.
_OBJECTS = (
    "FROM ALL_OBJECTS o JOIN ALL_USERS u ON u.USERNAME = o.OWNER "
    "WHERE o.OBJECT_TYPE IN ('TABLE', 'VIEW') AND u.ORACLE_MAINTAINED = 'N' "
    "AND o.TEMPORARY = 'N' AND o.SECONDARY = 'N' AND o.OBJECT_NAME NOT LIKE 'BIN$%'"
)

# INTEGER has no precision and scale 0: it takes more digits than 38. DATA_TYPE names the digits of moments itself.
_COLUMNS = """
SELECT c.COLUMN_NAME,
       CASE
           WHEN c.DATA_TYPE = 'XMLTYPE' OR c.DATA_TYPE_OWNER IS NULL THEN c.DATA_TYPE
           ELSE c.DATA_TYPE_OWNER || '.' || c.DATA_TYPE
       END
       || CASE
           WHEN c.DATA_TYPE = 'NUMBER' AND c.DATA_PRECISION IS NOT NULL
               THEN '(' || c.DATA_PRECISION || ',' || c.DATA_SCALE || ')'
           WHEN c.DATA_TYPE = 'NUMBER' AND c.DATA_SCALE IS NOT NULL THEN '(*,' || c.DATA_SCALE || ')'
           WHEN c.DATA_TYPE = 'FLOAT' THEN '(' || c.DATA_PRECISION || ')'
           WHEN c.DATA_TYPE IN ('CHAR', 'VARCHAR2', 'NCHAR', 'NVARCHAR2') THEN '(' || c.CHAR_LENGTH || ')'
           WHEN c.DATA_TYPE = 'RAW' THEN '(' || c.DATA_LENGTH || ')'
       END,
       CASE c.NULLABLE WHEN 'Y' THEN '1' ELSE '0' END
FROM ALL_TAB_COLUMNS c
WHERE c.OWNER = ? AND c.TABLE_NAME = ?
ORDER BY c.COLUMN_ID
"""

_TEXTS = {
    "INTERVAL YEAR TO MONTH": Fate(STRING, Carriage.TEXT, "`+01-02`"),
    "INTERVAL DAY TO SECOND": Fate(STRING, Carriage.TEXT, "`+04 05:06:07.000000`"),
    "ROWID": Fate(STRING, Carriage.TEXT, "where the row lies: it changes when the row moves"),
    "UROWID": Fate(STRING, Carriage.TEXT),
    "XMLTYPE": Fate(STRING, Carriage.TEXT, "as the server serialises it"),
    "JSON": Fate(STRING, Carriage.TEXT, "as the server serialises it; may be declared as json"),
}

_MAY_ALSO = {
    "NUMBER": {ColumnKind.DECIMAL, ColumnKind.INT64},
    "FLOAT": {ColumnKind.DECIMAL, ColumnKind.INT64},
    "TIMESTAMP": {ColumnKind.TIMESTAMP},
    _WITH_ZONE: {ColumnKind.TIMESTAMPTZ},
    _WITH_LOCAL_ZONE: {ColumnKind.TIMESTAMPTZ},
    "JSON": {ColumnKind.JSON},
}


def _parsed(source_type: str) -> tuple[str, str | None, str | None]:
    match = _TYPE.fullmatch(source_type)
    if match is None:
        return source_type, None, None
    return match["head"] + match["tail"], match["first"], match["second"]


def _exact(kind: ColumnKind, note: str = "") -> Fate:
    return Fate(ColumnType(kind), Carriage.EXACT, note)


def _text(note: str) -> Fate:
    return Fate(STRING, Carriage.TEXT, note)


def _refused(note: str) -> Fate:
    return Fate(STRING, Carriage.REFUSED, note)


def _fate_of_number(*, precision: int, scale: int) -> Fate:
    if not 0 <= scale <= precision <= MAX_DECIMAL_PRECISION:
        return _text("its scale fits no decimal type")
    if scale == 0:
        for digits, kind in ((4, ColumnKind.INT16), (9, ColumnKind.INT32), (18, ColumnKind.INT64)):
            if precision <= digits:
                return _exact(kind)
    return Fate(ColumnType(ColumnKind.DECIMAL, precision, scale), Carriage.EXACT)


def _fate_of_timestamp(word: str, *, digits: int) -> Fate:
    kind = ColumnKind.TIMESTAMP if word == "TIMESTAMP" else ColumnKind.TIMESTAMPTZ
    if digits <= 6:
        return _exact(kind, "BC becomes rejected rows")
    return _text(f"a seventh digit fits no {kind}; as `{kind}`, rows that use it are rejected")


def _number_format(*, precision: int, scale: int) -> str:
    """Return a format that writes every digit of a number: whole part, and as many decimals as its scale."""
    whole = "9" * max(precision - scale - 1, 0) + "0"
    return f"FM{whole}" + (f".{'0' * scale}" if scale else "")


def _formatted(column: str, number_format: str) -> str:
    return f"TO_CHAR({column}, '{number_format}', {_NUMERIC_CHARACTERS})"


def _float_text(column: str, *, digits: int) -> str:
    number = _formatted(column, f"FM9.{'0' * (digits - 1)}EEEE")
    return (
        f"CASE WHEN {column} IS NAN THEN 'NaN' WHEN {column} IS NOT INFINITE THEN {number} "
        f"WHEN {column} > 0 THEN 'Infinity' WHEN {column} < 0 THEN '-Infinity' END"
    )


def _fraction(digits: str | None) -> str:
    return f".FF{digits}" if digits != "0" else ""


def _utc_text(moment: str, *, source: str = "DUAL") -> str:
    return f"SELECT TO_CHAR(SYS_EXTRACT_UTC({moment}), 'YYYY-MM-DD\"T\"HH24:MI:SS.FF6') FROM {source}"
