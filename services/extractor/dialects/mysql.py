"""
MySQL from 5.7 on and MariaDB from 10.4 on: the fate of every type, and the SQL to say so. Run against MariaDB.

Sources: MariaDB Server documentation ("SQL_MODE", "Executable comments", "max_statement_time", "INFORMATION_SCHEMA
COLUMNS"); MySQL Reference Manual ("Data Types", "The sql_mode system variable", "max_execution_time", "String
Functions": a result longer than `max_allowed_packet` is NULL).
"""

import re
from collections.abc import Mapping, Sequence

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

MAX_NAME_CHARACTERS = 64
MAX_CHARACTER_SIZE_IN_BYTES = 4

_TYPE = re.compile(r"(?P<word>[a-z0-9 ]*[a-z0-9])(?:\((?P<inside>.*)\))?(?P<rest>(?: [a-z]+)*)", re.DOTALL)

_INTEGERS: Mapping[str, tuple[ColumnType, ColumnType]] = {
    # Signed, and unsigned.
    "tinyint": (ColumnType(ColumnKind.INT16), ColumnType(ColumnKind.INT16)),
    "smallint": (ColumnType(ColumnKind.INT16), ColumnType(ColumnKind.INT32)),
    "mediumint": (ColumnType(ColumnKind.INT32), ColumnType(ColumnKind.INT32)),
    "int": (ColumnType(ColumnKind.INT32), ColumnType(ColumnKind.INT64)),
    "bigint": (ColumnType(ColumnKind.INT64), ColumnType(ColumnKind.DECIMAL, 20, 0)),
}
_FLOATS = {"float": ColumnKind.FLOAT32, "double": ColumnKind.FLOAT64}
_CHARACTERS = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}
_BYTES = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
_SHAPES = {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
           "geometrycollection", "geomcollection"}  # fmt: skip
_DAYS_AND_MOMENTS = {
    "date": ColumnKind.DATE,
    "datetime": ColumnKind.TIMESTAMP,
    "timestamp": ColumnKind.TIMESTAMPTZ,
}
_TEXTS = {
    "time": "from -838:59:59 to 838:59:59",
    "uuid": "",
    "inet4": "",
    "inet6": "",
}
_ZERO_DATES = "zero dates become rejected rows"

_MAX_OCTETS = {
    "float": 30,
    "double": 30,
    "date": 10,
    "datetime": 26,
    "timestamp": 29,
    "time": 17,
    "year": 4,
    "uuid": 36,
    "inet4": 15,
    "inet6": 45,
    "tinytext": 255 * 3,
    "tinyblob": 2 + 255 * 2,
}
_MAX_INTEGER_OCTETS = 21
#: A point, a sign, and a zero before the point.
_DECIMAL_OVERHEAD = 3

#: Of a NULL made by a function, and of a NULL at the source, only the second is one: see `record_of`.
_BACKSLASH_X = "_utf8mb4 X'5C78'"
_LINE_BREAK = "_utf8mb4 X'0A'"


class MysqlDialect:
    """The SQL of MySQL and MariaDB. See `Dialect`."""

    name = DialectName.MYSQL
    begins_by_statement = True

    # ---- names and types -----------------------------------------------------------------------------------

    def quote(self, name: str) -> str:
        """
        Return a name in backticks, which mean a name whatever `sql_mode` says.

        >>> MysqlDialect().quote("odd`name")
        '`odd``name`'
        """
        if not name or "\0" in name or len(name) > MAX_NAME_CHARACTERS:
            raise ValueError(
                f"expected a name of 1 to {MAX_NAME_CHARACTERS} characters without NUL, found {name!r}"
            )
        return "`" + name.replace("`", "``") + "`"

    def fate_of(self, source_type: str) -> Fate:
        """
        Return what becomes of a type, as `COLUMN_TYPE` names it.

        >>> str(MysqlDialect().fate_of("bigint(20) unsigned").type)
        'decimal(20,0)'
        """
        word, inside, rest = _parsed(source_type)
        if word in _INTEGERS:
            return _exact(_INTEGERS[word]["unsigned" in rest])
        if word == "bit":
            return _exact(_type_of_bits(int(inside or 1)))
        if word == "decimal":
            return _fate_of_decimal(inside)
        if word in _FLOATS:
            return _exact(ColumnType(_FLOATS[word]))
        if word == "year":
            return _exact(ColumnType(ColumnKind.INT16))
        if word in _DAYS_AND_MOMENTS:
            return _exact(ColumnType(_DAYS_AND_MOMENTS[word]), _ZERO_DATES)
        if word == "char":
            return _exact(STRING, "the server itself cuts trailing blanks")
        if word in _CHARACTERS:
            return _exact(STRING)
        if word == "json":
            return _exact(ColumnType(ColumnKind.JSON))
        if word in _BYTES:
            return _exact(ColumnType(ColumnKind.BINARY))
        if word in _SHAPES:
            return _exact(
                ColumnType(ColumnKind.BINARY), "the server's own form: SRID in four bytes, then WKB"
            )
        if word in _TEXTS:
            return Fate(STRING, Carriage.TEXT, _TEXTS[word])
        return Fate(STRING, Carriage.REFUSED, "this type is not known; give a view that casts it")

    def can_carry(self, source_type: str, declared: ColumnType) -> bool:
        """Return whether a contract may declare this type; see `Dialect`."""
        fate = self.fate_of(source_type)
        return fate.carriage is not Carriage.REFUSED and holds(declared, fate.type)

    def text_of(self, quoted_name: str, source_type: str) -> str:
        """
        Return the expression of a column's text; see `Dialect`.

        A FLOAT has no more than six digits unless it is made a DOUBLE; a BIT is bytes unless it is made a number; the
        YEAR 0 and numbers with ZEROFILL have zeros that are no digits of theirs.
        """
        word, _, rest = _parsed(source_type)
        if word == "float":
            return f"CAST({quoted_name} * 1E0 AS CHAR)"
        if word in {"bit", "year"} or "zerofill" in rest:
            return f"CAST({quoted_name} + 0 AS CHAR)"
        if word == "timestamp":
            return f"CONCAT(CAST({quoted_name} AS CHAR), '+00')"
        if word in _CHARACTERS:
            return f"CONVERT({quoted_name} USING utf8mb4)"
        if word in _BYTES | _SHAPES:
            return f"CONCAT({_BACKSLASH_X}, LOWER(HEX({quoted_name})))"
        return f"CAST({quoted_name} AS CHAR)"

    # ---- a session, and one snapshot in it -----------------------------------------------------------------

    def session_settings(self, *, statement_timeout_seconds: int, lock_timeout_seconds: int) -> Sequence[str]:
        """
        Return the settings of a session; see `Dialect`.

        MariaDB reads comments that begin with `M!` and passes over those of MySQL's versions from 5.7 on; MySQL does
        the reverse. `max_execution_time` is in milliseconds.
        """
        seconds = statement_timeout_seconds
        return [
            # Not SET NAMES, which Connector/ODBC refuses: it says in which encoding statements come, and drivers know that.
            "SET SESSION character_set_connection = utf8mb4",
            "SET SESSION character_set_results = utf8mb4",
            # An empty mode: quotes and backslashes as by default, CHAR not padded, zero dates comparable.
            "SET SESSION sql_mode = ''",
            "SET SESSION time_zone = '+00:00'",
            # Either would change, silently, which rows a SELECT gives.
            "SET SESSION sql_select_limit = 18446744073709551615",
            "SET SESSION sql_auto_is_null = 0",
            f"SET SESSION lock_wait_timeout = {lock_timeout_seconds}",
            # Rows are taken off as they can be masked and stored. By default a server waits a minute for that.
            f"SET SESSION net_write_timeout = {seconds}",
            f"SET SESSION /*M! max_statement_time = {seconds} *//*!50708 max_execution_time = {seconds * 1000} */",
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        ]

    def begin_snapshot(self) -> Sequence[str]:
        """
        Begin a transaction and take its snapshot at once.

        A table that is changed between it and the first read raises error 1412, "Table definition has changed";
        from the first read on it is locked against that.
        """
        return ["START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"]

    def hold(self, schema: str, name: str, kind: str) -> Sequence[str]:  # noqa: ARG002 (the port)
        """Return nothing: the metadata lock of the first read holds a table."""
        return []

    def end_snapshot(self) -> Sequence[str]:
        """End the transaction."""
        return ["COMMIT"]

    # ---- the catalogue -------------------------------------------------------------------------------------

    def clock(self) -> Statement:
        """Return the query of the server's clock. A replica that lags does not tell so: read the primary."""
        return Statement("SELECT DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%f')")

    def oldest_open_transaction(self) -> Statement:
        """Return the query of the oldest open one that has written. It needs the right PROCESS, and fails without."""
        return Statement(
            "SELECT DATE_FORMAT(CONVERT_TZ(MIN(trx_started), 'SYSTEM', '+00:00'), '%Y-%m-%dT%H:%i:%s.%f') "
            "FROM information_schema.innodb_trx WHERE trx_rows_modified > 0"
        )

    def tables(self) -> Statement:
        """Return the query of all tables and views; see `Dialect`."""
        return Statement(
            "SELECT table_schema, table_name, CASE WHEN table_type LIKE '%VIEW' THEN 'view' ELSE 'table' END "
            "FROM information_schema.tables "
            "WHERE table_schema NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys') "
            "AND table_type <> 'SEQUENCE' ORDER BY table_schema, table_name"
        )

    def table(self, schema: str, name: str) -> Statement:
        """Return the query of one table's kind; see `Dialect`."""
        return Statement(
            "SELECT CASE WHEN table_type LIKE '%VIEW' THEN 'view' ELSE 'table' END "
            f"FROM information_schema.tables WHERE {_EXACTLY_NAMED}",
            (schema, name, schema, name),
        )

    def columns(self, schema: str, name: str) -> Statement:
        """Return the query of a table's columns; see `Dialect`."""
        return Statement(
            "SELECT column_name, column_type, CASE is_nullable WHEN 'YES' THEN '1' ELSE '0' END "
            f"FROM information_schema.columns WHERE {_EXACTLY_NAMED} ORDER BY ordinal_position",
            (schema, name, schema, name),
        )

    def key(self, schema: str, name: str) -> Statement:
        """Return the query of a table's primary key; see `Dialect`."""
        return Statement(
            f"SELECT column_name FROM information_schema.key_column_usage WHERE {_EXACTLY_NAMED} "
            "AND constraint_name = 'PRIMARY' ORDER BY ordinal_position",
            (schema, name, schema, name),
        )

    holds_tables_late = False

    def names_of_query(self, query: str) -> None:
        """Return None: the description has them."""

    def describe_query(self, query: str, names: Sequence[str]) -> QueryDescription:  # noqa: ARG002 (the port)
        """
        Describe a query by an empty table of the session's own, which needs CREATE TEMPORARY TABLES.

        Nothing else tells the types of expressions in the words of `columns`.
        """
        return QueryDescription(
            Statement("SHOW COLUMNS FROM esclusa_described"),
            before=(f"CREATE TEMPORARY TABLE esclusa_described AS SELECT * FROM ({query}) AS q LIMIT 0",),
            after=("DROP TEMPORARY TABLE esclusa_described",),
            needs="CREATE TEMPORARY TABLES in the database that it connects to",
        )

    def some_of(self, expressions: str, relation: str, *, count: int) -> Statement:
        """Return a query of some rows; see `Dialect`."""
        return Statement(f"SELECT {expressions} FROM {relation} LIMIT {count}")

    # ---- reading -------------------------------------------------------------------------------------------

    def parameter(self, source_type: str) -> str:
        """
        Return the placeholder for values of a type.

        >>> MysqlDialect().parameter("timestamp(6)")
        'CAST(? AS DATETIME(6))'
        """
        word, _, rest = _parsed(source_type)
        if word in _DAYS_AND_MOMENTS:
            return "CAST(? AS DATETIME(6))"
        if word in _INTEGERS or word in {"bit", "year"}:
            return f"CAST(? AS {'UNSIGNED' if 'unsigned' in rest or word == 'bit' else 'SIGNED'})"
        if word == "decimal":
            return "CAST(? AS DECIMAL(65, 30))"
        return "?"

    def in_no_window(self, quoted_name: str, source_type: str) -> str:
        """Return the condition for zero dates."""
        word, _, _ = _parsed(source_type)
        return f"{quoted_name} = '0000-00-00'" if word in _DAYS_AND_MOMENTS else ""

    def record_of(self, fields: Sequence[CsvField]) -> str:
        """
        Return the expression of a record.

        A text longer than `max_allowed_packet` is NULL, with no more than a warning. So NULL is asked of the column
        and not of its text: the text's NULL then goes up to the whole record, where it is noticed.
        """
        parts: list[str] = []
        for field in fields:
            if parts:
                parts.append("','")
            written = (
                field.text if field.is_plain else f"""CONCAT('"', REPLACE({field.text}, '"', '""'), '"')"""
            )
            parts.append(f"CASE WHEN {field.quoted_name} IS NULL THEN '' ELSE {written} END")
        return f"CONCAT({', '.join([*parts, _LINE_BREAK])})"

    def cell_of(self, quoted_name: str, bits: int) -> str:
        """Return the expression of a number without its lowest bits. `>>` takes numbers below zero for large ones."""
        width = 1 << bits
        return f"(({quoted_name} - MOD(MOD({quoted_name}, {width}) + {width}, {width})) DIV {width})"

    def hash_of(self, fields: Sequence[CsvField]) -> str:
        """Return the MD5 of the record in our CSV, where NULL, '' and 'NULL' are three things."""
        return f"MD5({self.record_of(fields)})"

    def quarters_of(self, hashed: str) -> Sequence[str]:
        """Return the four sums; see `Dialect`."""
        return [
            f"CAST(SUM(CAST(CONV(SUBSTRING({hashed}, {start}, 8), 16, 10) AS UNSIGNED)) AS CHAR)"
            for start in (1, 9, 17, 25)
        ]

    def octets_of(self, text: str) -> str:
        """Return the expression of a text's bytes. All texts of ours are in utf8mb4."""
        return f"OCTET_LENGTH({text})"

    def max_octets_of(self, source_type: str) -> int | None:
        """Return how long the text of a type can be; see `Dialect`."""
        word, inside, _ = _parsed(source_type)
        if word in _MAX_OCTETS:
            return _MAX_OCTETS[word]
        if word in _INTEGERS or word == "bit":
            return _MAX_INTEGER_OCTETS
        if word == "decimal":
            return int(inside.partition(",")[0] or 10) + _DECIMAL_OVERHEAD
        if word in {"char", "varchar"}:
            return int(inside) * MAX_CHARACTER_SIZE_IN_BYTES
        if word in {"binary", "varbinary"}:
            return 2 + 2 * int(inside)
        if word in {"enum", "set"}:
            # The members with quotes and commas between them: more than any value.
            return len(inside.encode("utf-8", "surrogatepass"))
        return None


# Names compare by their bytes here: without, `Orders` and `orders` could be two tables and one answer.
_EXACTLY_NAMED = (
    "table_schema = ? AND table_name = ? "
    "AND CAST(table_schema AS BINARY) = CAST(? AS BINARY) AND CAST(table_name AS BINARY) = CAST(? AS BINARY)"
)


def _parsed(source_type: str) -> tuple[str, str, str]:
    """Return the word of a type, what stands in its parentheses, and what follows."""
    match = _TYPE.fullmatch(source_type)
    if match is None:
        return source_type, "", ""
    word, _, more = match["word"].partition(" ")
    return word, match["inside"] or "", f"{more} {match['rest']}"


def _exact(column_type: ColumnType, note: str = "") -> Fate:
    return Fate(column_type, Carriage.EXACT, note)


def _type_of_bits(count: int) -> ColumnType:
    """Return the type of so many bits as a number without sign."""
    for most, kind in ((15, ColumnKind.INT16), (31, ColumnKind.INT32), (63, ColumnKind.INT64)):
        if count <= most:
            return ColumnType(kind)
    return ColumnType(ColumnKind.DECIMAL, 20, 0)


def _fate_of_decimal(digits: str) -> Fate:
    precision, _, scale = digits.partition(",")
    if int(precision or 10) <= MAX_DECIMAL_PRECISION:
        return _exact(ColumnType(ColumnKind.DECIMAL, int(precision or 10), int(scale or 0)))
    return Fate(STRING, Carriage.TEXT, "of up to 65 digits")
