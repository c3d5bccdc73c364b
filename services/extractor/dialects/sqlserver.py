"""
SQL Server, from 2016 on, and Azure SQL. Written after Microsoft's documentation; not run against a server.

Sources, all of the Transact-SQL reference: "CAST and CONVERT" (styles), "Data types", "SET TEXTSIZE", "SET XACT_ABORT",
"SET TRANSACTION ISOLATION LEVEL", "sys.columns", "sys.dm_tran_active_transactions", "Dynamic data masking".
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

#: sysname is nvarchar(128), counted in code units of UTF-16. Source: "Database identifiers".
MAX_NAME_UNITS = 128
#: A varchar that is not `max` has at most so many bytes, an nvarchar half as many characters.
MAX_VARCHAR_BYTES = 8000

_TYPE = re.compile(r"(?P<word>[a-z0-9]+)(?:\((?P<first>max|\d+)(?:,(?P<second>\d+))?\))?")

_EXACT = {
    "bit": ColumnKind.BOOLEAN,
    # From 0 to 255: one bit more than a signed byte has.
    "tinyint": ColumnKind.INT16,
    "smallint": ColumnKind.INT16,
    "int": ColumnKind.INT32,
    "bigint": ColumnKind.INT64,
    "real": ColumnKind.FLOAT32,
    "float": ColumnKind.FLOAT64,
    "char": ColumnKind.STRING,
    "varchar": ColumnKind.STRING,
    "nchar": ColumnKind.STRING,
    "nvarchar": ColumnKind.STRING,
    "text": ColumnKind.STRING,
    "ntext": ColumnKind.STRING,
    "binary": ColumnKind.BINARY,
    "varbinary": ColumnKind.BINARY,
    "image": ColumnKind.BINARY,
    "date": ColumnKind.DATE,
    "datetime": ColumnKind.TIMESTAMP,
    "smalldatetime": ColumnKind.TIMESTAMP,
    "json": ColumnKind.JSON,
}
_NOTES = {
    "datetime": "to the millisecond that the server shows: it keeps thirds of a hundredth of a second",
    "char": "with its trailing blanks",
    "nchar": "with its trailing blanks",
    "float": "17 digits, style 3",
    "real": "17 digits, style 3",
}
_MONEY_DIGITS = {"money": 19, "smallmoney": 10}

_REFUSED = {
    "sql_variant": "each value has a type of its own; give a view that casts it",
    "vector": "its text is not documented to be exact; give a view that casts it",
    "cursor": "no column can have it",
    "table": "no column can have it",
}
_MASKED = "masked "

_SPATIAL = {"geometry", "geography"}
_MOMENT_STYLE = 121
_DATETIME_OF_PARAMETER = "CONVERT(datetime2(6), ?, 121)"


class SqlServerDialect:
    """The SQL of SQL Server. See `Dialect`."""

    name = DialectName.SQLSERVER

    # ---- names and types ---------------------------------------------------------------------------------------

    def quote(self, name: str) -> str:
        """
        Return a name in brackets, which mean a name whatever QUOTED_IDENTIFIER says.

        >>> SqlServerDialect().quote("odd]name")
        '[odd]]name]'
        """
        length = len(name.encode("utf-16-le", "surrogatepass")) // 2
        if not 1 <= length <= MAX_NAME_UNITS or "\0" in name:
            raise ValueError(
                f"expected a name of 1 to {MAX_NAME_UNITS} characters without NUL, found {length} in {name!r}"
            )
        return "[" + name.replace("]", "]]") + "]"

    def fate_of(self, source_type: str) -> Fate:
        """Return what becomes of a type, named as `columns` names it; see `Dialect`."""
        if source_type.startswith(_MASKED):
            return _refused(
                "dynamic data masking shows this login other values; GRANT UNMASK, or drop the column"
            )
        word, first, second = _parsed(source_type)
        if word in {"decimal", "numeric"} and first is not None:
            return _exact(ColumnType(ColumnKind.DECIMAL, int(first), int(second or 0)))
        if word in _MONEY_DIGITS:
            return _exact(ColumnType(ColumnKind.DECIMAL, _MONEY_DIGITS[word], 4))
        if word in _EXACT:
            return _exact(ColumnType(_EXACT[word]), _NOTES.get(word, ""))
        if word == "rowversion":
            return _exact(
                ColumnType(ColumnKind.INT64),
                "its eight bytes as a number; as the cursor it needs an `overlap`, since an open transaction may show smaller ones later",
            )
        if word == "datetime2":
            return _fate_of_datetime2(digits=int(first or 7))
        if word == "datetimeoffset":
            return _text("with its offset; as `timestamptz` the moment alone, without the offset")
        if word in _SPATIAL:
            return _exact(
                ColumnType(ColumnKind.BINARY),
                "the serialised form with SRID, [MS-SSCLRT]; a view may say STAsText()",
            )
        return _TEXTS.get(word) or _refused(
            _REFUSED.get(word, "this type is not known; give a view that casts it")
        )

    def can_carry(self, source_type: str, declared: ColumnType) -> bool:
        """Return whether a contract may declare this type; see `Dialect`."""
        fate = self.fate_of(source_type)
        if fate.carriage is Carriage.REFUSED:
            return False
        word, _, _ = _parsed(source_type)
        # A seventh digit that is no zero makes a rejected row, never a rounded one.
        may_also = {"datetime2": ColumnKind.TIMESTAMP, "datetimeoffset": ColumnKind.TIMESTAMPTZ}
        return holds(declared, fate.type) or declared.kind is may_also.get(word)

    def text_of(self, quoted_name: str, source_type: str) -> str:  # noqa: PLR0912 — one arm for each spelling
        """Return the expression of a column's text; see `Dialect`. CONVERT gives NULL for NULL."""
        word, first, _ = _parsed(source_type)
        column = quoted_name
        match word:
            case "bit":
                return f"CASE {column} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
            case "tinyint" | "smallint" | "int" | "bigint":
                return f"CONVERT(varchar(20), {column})"
            case "rowversion":
                return f"CONVERT(varchar(20), CONVERT(bigint, {column}))"
            case "decimal" | "numeric":
                return f"CONVERT(varchar({MAX_DECIMAL_PRECISION + 3}), {column})"
            case "money" | "smallmoney":
                # Without a style it has two digits behind the point. Source: "CAST and CONVERT", money styles.
                return f"CONVERT(varchar(30), {column}, 2)"
            case "float" | "real":
                return f"CONVERT(varchar(32), {column}, 3)"
            case "nchar" | "nvarchar":
                return column
            case "ntext" | "xml" | "json":
                return f"CONVERT(nvarchar(max), {column})"
            case "text":
                return f"CONVERT(nvarchar(max), CONVERT(varchar(max), {column}))"
            case "char" | "varchar":
                # The server knows the code page of the collation; a driver may guess.
                return f"CONVERT(nvarchar({_length_or_max(first, at_most=MAX_VARCHAR_BYTES // 2)}), {column})"
            case "uniqueidentifier":
                return f"CONVERT(char(36), {column})"
            case "binary" | "varbinary":
                # One less than would fit: a sum of two that is longer than 8,000 is cut without a word.
                length = _length_or_max(first, at_most=MAX_VARCHAR_BYTES // 2 - 1, factor=2)
                return f"'\\x' + CONVERT(varchar({length}), {column}, 2)"
            case "image" | "geometry" | "geography":
                return f"'\\x' + CONVERT(varchar(max), CONVERT(varbinary(max), {column}), 2)"
            case "date":
                return f"CONVERT(char(10), {column}, 23)"
            case "smalldatetime":
                return f"CONVERT(char(19), {column}, 120)"
            case "datetime":
                return f"CONVERT(char(23), {column}, {_MOMENT_STYLE})"
            case "datetime2":
                return f"CONVERT(varchar(27), {column}, {_MOMENT_STYLE})"
            case "datetimeoffset":
                # 126 keeps the offset and puts no blank before it; 127 would turn it into UTC.
                return f"CONVERT(varchar(33), {column}, 126)"
            case "time":
                return f"CONVERT(varchar(16), {column}, {_MOMENT_STYLE})"
            case "hierarchyid":
                return f"{column}.ToString()"
            case _:
                raise ValueError(f"{source_type!r} is refused: {self.fate_of(source_type).note}")

    # ---- a session, and one snapshot in it ---------------------------------------------------------------------

    @property
    def begins_by_statement(self) -> bool:
        """Yes: BEGIN TRANSACTION."""
        return True

    def session_settings(
        self,
        *,
        statement_timeout_seconds: int,  # noqa: ARG002 — the server has no such setting, its drivers do
        lock_timeout_seconds: int,
    ) -> Sequence[str]:
        """Return the settings of a session; how long a statement takes is for the driver to bound."""
        return (
            "SET NOCOUNT ON",
            "SET XACT_ABORT ON",
            # Drivers other than Microsoft's leave it at some kilobytes, and longer values are cut without a word.
            "SET TEXTSIZE 2147483647",
            "SET ROWCOUNT 0",
            "SET DATEFORMAT ymd",
            "SET LANGUAGE us_english",
            "SET ANSI_NULLS, ANSI_PADDING, ANSI_WARNINGS, ARITHABORT, CONCAT_NULL_YIELDS_NULL, QUOTED_IDENTIFIER ON",
            "SET NUMERIC_ROUNDABORT OFF",
            "SET DEADLOCK_PRIORITY LOW",
            f"SET LOCK_TIMEOUT {lock_timeout_seconds * 1000}",
        )

    def begin_snapshot(self) -> Sequence[str]:
        """
        Return what begins a snapshot, or fails with what the database's owner has to do.

        There is no READ ONLY for a transaction: that nothing is written is held by the login's rights.
        """
        return (
            _REQUIRE_SNAPSHOT_ISOLATION,
            "SET TRANSACTION ISOLATION LEVEL SNAPSHOT",
            "BEGIN TRANSACTION",
        )

    def hold(self, schema: str, name: str, kind: str) -> Sequence[str]:  # noqa: ARG002 — nothing to hold
        """Return nothing: a table that is altered after the snapshot began fails every read (error 3961)."""
        return ()

    def end_snapshot(self) -> Sequence[str]:
        """Return what ends it; with XACT_ABORT an error may have done so before."""
        return ("IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION", "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")

    # ---- the catalogue -----------------------------------------------------------------------------------------

    def clock(self) -> Statement:
        """Return a query of the server's clock, cut to microseconds; see `Dialect`."""
        return Statement(
            f"SELECT REPLACE(LEFT(CONVERT(varchar(27), SYSUTCDATETIME(), {_MOMENT_STYLE}), 26), ' ', 'T')"
        )

    def oldest_open_transaction(self) -> Statement:
        """
        Return a query of the start of the oldest transaction that has written to the database; see `Dialect`.

        NULL without the right VIEW SERVER STATE. Starts are kept in local time: one that is open while the clock is set
        back for winter looks an hour younger.
        """
        return Statement(
            "IF HAS_PERMS_BY_NAME(NULL, NULL, 'VIEW SERVER STATE') = 1 "
            "SELECT REPLACE(LEFT(CONVERT(varchar(27), DATEADD(second, -1 - MAX(DATEDIFF(second, "
            "a.transaction_begin_time, GETDATE())), SYSUTCDATETIME()), 121), 26), ' ', 'T') "
            "FROM sys.dm_tran_active_transactions AS a "
            # It has a beginning in the database from its first log record on.
            "JOIN sys.dm_tran_database_transactions AS d ON d.transaction_id = a.transaction_id "
            "WHERE d.database_id = DB_ID() AND d.database_transaction_begin_time IS NOT NULL "
            "ELSE SELECT CAST(NULL AS varchar(26))"
        )

    def tables(self) -> Statement:
        """Return a query of tables and views; see `Dialect`."""
        return Statement(
            "SELECT s.name, o.name, CASE o.type WHEN 'V' THEN 'view' ELSE 'table' END "
            "FROM sys.objects AS o JOIN sys.schemas AS s ON s.schema_id = o.schema_id "
            "WHERE o.type IN ('U', 'V') AND o.is_ms_shipped = 0 ORDER BY s.name, o.name"
        )

    def table(self, schema: str, name: str) -> Statement:
        """Return a query of one table's kind; see `Dialect`."""
        return Statement(
            "SELECT CASE o.type WHEN 'V' THEN 'view' ELSE 'table' END "
            "FROM sys.objects AS o JOIN sys.schemas AS s ON s.schema_id = o.schema_id "
            "WHERE o.type IN ('U', 'V') AND s.name = ? AND o.name = ?",
            (schema, name),
        )

    def columns(self, schema: str, name: str) -> Statement:
        """Return a query of a table's columns; see `Dialect`. An alias type counts as the type below it."""
        return Statement(_COLUMNS, (schema, name))

    def key(self, schema: str, name: str) -> Statement:
        """Return a query of the columns of the primary key; see `Dialect`."""
        return Statement(
            "SELECT c.name FROM sys.indexes AS i "
            "JOIN sys.index_columns AS k ON k.object_id = i.object_id AND k.index_id = i.index_id "
            "JOIN sys.columns AS c ON c.object_id = k.object_id AND c.column_id = k.column_id "
            "JOIN sys.objects AS o ON o.object_id = i.object_id "
            "JOIN sys.schemas AS s ON s.schema_id = o.schema_id "
            "WHERE i.is_primary_key = 1 AND s.name = ? AND o.name = ? ORDER BY k.key_ordinal",
            (schema, name),
        )

    @property
    def holds_tables_late(self) -> bool:
        """No: a read of a table that changed after the snapshot is an error, 3961."""
        return False

    def names_of_query(self, query: str) -> None:
        """Return None: the description has them."""

    def describe_query(self, query: str, names: Sequence[str]) -> QueryDescription:  # noqa: ARG002 (the port)
        """Return a query of what the server says of the first result of a batch; see `Dialect`."""
        return QueryDescription(
            Statement(
                # It does not tell which columns have masks: without UNMASK none is believed where there are any.
                "SELECT name, CASE WHEN HAS_PERMS_BY_NAME(NULL, 'DATABASE', 'UNMASK') = 0 "
                f"AND EXISTS (SELECT 1 FROM sys.masked_columns WHERE is_masked = 1) THEN '{_MASKED}' ELSE '' END "
                "+ CASE system_type_name WHEN 'timestamp' THEN 'rowversion' ELSE system_type_name END, "
                "CASE is_nullable WHEN 1 THEN '1' ELSE '0' END "
                "FROM sys.dm_exec_describe_first_result_set(CAST(? AS nvarchar(max)), NULL, 0) "
                "WHERE is_hidden = 0 ORDER BY column_ordinal",
                (query,),
            )
        )

    def some_of(self, expressions: str, relation: str, *, count: int) -> Statement:
        """Return a query of some rows; see `Dialect`."""
        return Statement(f"SELECT TOP ({count}) {expressions} FROM {relation}")

    # ---- reading -----------------------------------------------------------------------------------------------

    def parameter(self, source_type: str) -> str:
        """Return the placeholder for a column's type; see `Dialect`. Of the column's own type, so that an index serves."""
        word, _, _ = _parsed(source_type)
        match word:
            case "datetime2" | "date":
                return f"CONVERT({source_type}, {_DATETIME_OF_PARAMETER})"
            case "datetime" | "smalldatetime":
                return f"CONVERT({word}, {_DATETIME_OF_PARAMETER})"
            case "datetimeoffset":
                return f"TODATETIMEOFFSET({_DATETIME_OF_PARAMETER}, '+00:00')"
            case "rowversion":
                # Bytes have no sign: a number below zero, as an overlap may reach it, would be above all others.
                return (
                    "(SELECT CONVERT(binary(8), CASE WHEN bound.n < 0 THEN 0 ELSE bound.n END) "
                    "FROM (SELECT CONVERT(bigint, ?) AS n) AS bound)"
                )
            case "char" | "varchar" | "nchar" | "nvarchar" | "uniqueidentifier" | "decimal" | "numeric":
                return f"CONVERT({source_type}, ?)"
            case "tinyint" | "smallint" | "int" | "bigint" | "money" | "smallmoney":
                # A bound may lie outside a small type.
                return "CONVERT(bigint, ?)" if word.endswith("int") else f"CONVERT({word}, ?)"
            case _:
                raise ValueError(f"expected a type whose values can be compared, found {source_type!r}")

    def in_no_window(self, quoted_name: str, source_type: str) -> str:  # noqa: ARG002 — no such values
        """Return nothing: no moment of SQL Server lies outside all windows."""
        return ""

    def record_of(self, fields: Sequence[CsvField]) -> str | None:  # noqa: ARG002 — as columns
        """Return None: columns are selected one by one."""
        return None

    def cell_of(self, quoted_name: str, bits: int) -> str:
        """Return the expression of a number without its lowest bits. There is no `>>` before SQL Server 2022."""
        number, width = f"CAST({quoted_name} AS bigint)", 1 << bits
        return f"(({number} - (({number} % {width}) + {width}) % {width}) / {width})"

    def hash_of(self, fields: Sequence[CsvField]) -> str:
        """
        Return the MD5 of all texts, each in quotes and NULL as nothing. Before SQL Server 2016 it takes 8,000 bytes.

        Each is made one of the largest type first: REPLACE, and a sum of two others, end at 8,000 bytes without a word.
        Compared by its bits, for to other collations a wide quote is a quote.
        """
        texts = [
            f"""'"' + REPLACE(CAST({field.text} AS nvarchar(max)) COLLATE Latin1_General_BIN2, '"', '""') + '"'"""
            for field in fields
        ]
        joined = " + ',' + ".join(f"COALESCE({text}, '')" for text in texts)
        return f"HASHBYTES('MD5', {joined})"

    def quarters_of(self, hashed: str) -> Sequence[str]:
        """Return the four sums; see `Dialect`. Four bytes as a bigint are a number without sign."""
        return [
            f"CAST(SUM(CAST(SUBSTRING({hashed}, {start}, 4) AS bigint)) AS varchar(20))"
            for start in (1, 5, 9, 13)
        ]

    def octets_of(self, text: str) -> str:
        """Return an upper bound: a unit of UTF-16 makes three bytes of UTF-8 at most."""
        return f"DATALENGTH(CONVERT(nvarchar(max), {text})) / 2 * 3"

    def max_octets_of(self, source_type: str) -> int | None:
        """Return how long a text can be in UTF-8; None for types without a bound."""
        word, first, _ = _parsed(source_type)
        if word in {"text", "ntext", "image", "xml", "json", "geometry", "geography"} or first == "max":
            return None
        if word in {"char", "varchar", "nchar", "nvarchar"}:
            return 3 * int(first or 1)
        if word in {"binary", "varbinary"}:
            return 2 + 2 * int(first or 1)
        if word == "hierarchyid":
            return 3 * 4000
        return 64


# Without it the first read fails with error 3952, which does not say what to do.
_REQUIRE_SNAPSHOT_ISOLATION = (
    "IF (SELECT snapshot_isolation_state FROM sys.databases WHERE database_id = DB_ID()) <> 1 "
    "BEGIN; THROW 50000, 'snapshot isolation is not allowed in this database; its owner allows it by: "
    "ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON', 1; END"
)

_COLUMNS = f"""
SELECT c.name,
       CASE WHEN c.is_masked = 1 AND HAS_PERMS_BY_NAME(NULL, 'DATABASE', 'UNMASK') = 0 THEN '{_MASKED}' ELSE '' END
       + CASE
           WHEN declared.is_assembly_type = 1 AND declared.is_user_defined = 1 THEN home.name + '.' + declared.name
           WHEN declared.is_assembly_type = 1 THEN declared.name
           WHEN base.name = 'timestamp' THEN 'rowversion'
           WHEN base.name IN ('decimal', 'numeric') THEN CONCAT(base.name, '(', c.precision, ',', c.scale, ')')
           WHEN base.name IN ('datetime2', 'datetimeoffset', 'time') THEN CONCAT(base.name, '(', c.scale, ')')
           WHEN base.name IN ('char', 'varchar', 'nchar', 'nvarchar', 'binary', 'varbinary')
               THEN CONCAT(base.name, '(', CASE
                   WHEN c.max_length = -1 THEN 'max'
                   WHEN base.name LIKE 'n%' THEN CONVERT(varchar(11), c.max_length / 2)
                   ELSE CONVERT(varchar(11), c.max_length) END, ')')
           ELSE base.name
       END,
       CASE c.is_nullable WHEN 1 THEN '1' ELSE '0' END
FROM sys.columns AS c
JOIN sys.objects AS o ON o.object_id = c.object_id
JOIN sys.schemas AS s ON s.schema_id = o.schema_id
JOIN sys.types AS declared ON declared.user_type_id = c.user_type_id
JOIN sys.schemas AS home ON home.schema_id = declared.schema_id
LEFT JOIN sys.types AS base ON base.user_type_id = c.system_type_id
WHERE o.type IN ('U', 'V') AND s.name = ? AND o.name = ?
ORDER BY c.column_id
"""


def _parsed(source_type: str) -> tuple[str, str | None, str | None]:
    match = _TYPE.fullmatch(source_type)
    return (match["word"], match["first"], match["second"]) if match else (source_type, None, None)


def _exact(column_type: ColumnType, note: str = "") -> Fate:
    return Fate(column_type, Carriage.EXACT, note)


def _text(note: str = "") -> Fate:
    return Fate(STRING, Carriage.TEXT, note)


def _refused(note: str) -> Fate:
    return Fate(STRING, Carriage.REFUSED, note)


_TEXTS = {
    "time": _text("`hh:mm:ss.fffffff`"),
    "uniqueidentifier": _text("capital letters, as the server writes it"),
    "hierarchyid": _text("`/1/2.5/`"),
    "xml": _text(
        "as the server keeps it: it drops the declaration and blanks between elements when it stores"
    ),
}


def _fate_of_datetime2(*, digits: int) -> Fate:
    if digits <= 6:
        return _exact(ColumnType(ColumnKind.TIMESTAMP))
    return _text("a seventh digit fits no timestamp; as `timestamp`, rows that use it are rejected")


def _length_or_max(length: str | None, *, at_most: int, factor: int = 1) -> str:
    """Return the length of the text of a column of a length, as CONVERT takes it."""
    if length is None or length == "max" or int(length) > at_most:
        return "max"
    return str(int(length) * factor)
