"""
The page about types, written from the dialects: `python -m services.extractor.dialects.page > docs/types.md`.

A test in `tests/house/` compares the page with the code.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from services.extractor.dialects import Carriage, Dialect, DialectName, Fate
from services.extractor.dialects.registry import dialect_of

#: The types of each product, as its catalogue names them, one example for each way to write digits.
TYPES: Mapping[DialectName, Sequence[str]] = MappingProxyType(
    {
        DialectName.POSTGRESQL: (
            "boolean",
            "smallint",
            "integer",
            "bigint",
            "numeric(12,2)",
            "numeric(38,0)",
            "numeric(39,0)",
            "numeric(5,-2)",
            "numeric",
            "real",
            "double precision",
            "money",
            "text",
            "character varying(50)",
            "character(5)",
            '"char"',
            "name",
            "bytea",
            "date",
            "timestamp without time zone",
            "timestamp(3) with time zone",
            "time without time zone",
            "time with time zone",
            "interval",
            "json",
            "jsonb",
            "jsonpath",
            "xml",
            "uuid",
            "inet",
            "cidr",
            "macaddr",
            "macaddr8",
            "bit(8)",
            "bit varying",
            "point",
            "line",
            "lseg",
            "box",
            "path",
            "polygon",
            "circle",
            "tsvector",
            "tsquery",
            "int4range",
            "int8multirange",
            "numrange",
            "daterange",
            "tsrange",
            "tstzrange",
            "integer[]",
            "text[]",
            "oid",
            "regclass",
            "xid",
            "xid8",
            "cid",
            "tid",
            "pg_lsn",
            "txid_snapshot",
            "pg_snapshot",
            "refcursor",
            "int2vector",
            "oidvector",
            "public.an_enum",
            "public.a_composite",
            "public.hstore",
            "public.geometry",
        ),
        DialectName.MYSQL: (
            "tinyint(4)",
            "tinyint(3) unsigned",
            "smallint(6)",
            "smallint(5) unsigned",
            "mediumint(9)",
            "mediumint(8) unsigned",
            "int(11)",
            "int(10) unsigned",
            "int(10) unsigned zerofill",
            "bigint(20)",
            "bigint(20) unsigned",
            "bit(1)",
            "bit(64)",
            "decimal(38,10)",
            "decimal(65,30)",
            "float",
            "double",
            "year(4)",
            "date",
            "datetime(6)",
            "timestamp(6)",
            "time(6)",
            "char(10)",
            "varchar(50)",
            "tinytext",
            "text",
            "mediumtext",
            "longtext",
            "enum('a','b')",
            "set('a','b')",
            "json",
            "binary(16)",
            "varbinary(255)",
            "tinyblob",
            "blob",
            "mediumblob",
            "longblob",
            "uuid",
            "inet4",
            "inet6",
            "geometry",
            "point",
            "linestring",
            "polygon",
            "multipoint",
            "multilinestring",
            "multipolygon",
            "geometrycollection",
            "vector(3)",
        ),
        DialectName.SQLSERVER: (
            "bit",
            "tinyint",
            "smallint",
            "int",
            "bigint",
            "rowversion",
            "decimal(38,10)",
            "numeric(18,0)",
            "money",
            "smallmoney",
            "real",
            "float",
            "char(10)",
            "varchar(50)",
            "varchar(max)",
            "nchar(10)",
            "nvarchar(50)",
            "nvarchar(max)",
            "text",
            "ntext",
            "binary(16)",
            "varbinary(50)",
            "varbinary(max)",
            "image",
            "date",
            "datetime",
            "smalldatetime",
            "datetime2(6)",
            "datetime2(7)",
            "datetimeoffset(7)",
            "time(7)",
            "uniqueidentifier",
            "hierarchyid",
            "geometry",
            "geography",
            "xml",
            "json",
            "vector",
            "sql_variant",
            "dbo.a_clr_type",
            "masked nvarchar(50)",
        ),
        DialectName.ORACLE: (
            "NUMBER(4,0)",
            "NUMBER(9,0)",
            "NUMBER(18,0)",
            "NUMBER(19,0)",
            "NUMBER(38,10)",
            "NUMBER(5,-2)",
            "NUMBER(*,0)",
            "NUMBER",
            "FLOAT(126)",
            "BINARY_FLOAT",
            "BINARY_DOUBLE",
            "BOOLEAN",
            "CHAR(10)",
            "VARCHAR2(100)",
            "NCHAR(10)",
            "NVARCHAR2(100)",
            "CLOB",
            "NCLOB",
            "LONG",
            "RAW(16)",
            "LONG RAW",
            "BLOB",
            "BFILE",
            "DATE",
            "TIMESTAMP(6)",
            "TIMESTAMP(9)",
            "TIMESTAMP(6) WITH TIME ZONE",
            "TIMESTAMP(6) WITH LOCAL TIME ZONE",
            "INTERVAL YEAR(2) TO MONTH",
            "INTERVAL DAY(2) TO SECOND(6)",
            "ROWID",
            "UROWID",
            "XMLTYPE",
            "JSON",
            "VECTOR",
            "MDSYS.SDO_GEOMETRY",
            "SCOTT.AN_OBJECT",
        ),
        DialectName.SQLITE: (
            "INTEGER",
            "BOOLEAN",
            "REAL",
            "DECIMAL(10,2)",
            "TEXT",
            "VARCHAR(50)",
            "BLOB",
            "JSON",
            "DATE",
            "DATETIME",
            "NUMERIC",
            "",
        ),
    }
)

_TITLES = {
    DialectName.POSTGRESQL: ("PostgreSQL", "Run against PostgreSQL 16, natively and through ODBC."),
    DialectName.MYSQL: ("MySQL and MariaDB", "Run against MariaDB 10.11."),
    DialectName.SQLSERVER: (
        "SQL Server",
        "**Not run**: written after Microsoft's documents, tested on its text.",
    ),
    DialectName.ORACLE: ("Oracle", "**Not run**: written after Oracle's documents, tested on its text."),
    DialectName.SQLITE: (
        "SQLite",
        "Run against SQLite 3.40. A blob in a column that is not declared as one refuses the batch.",
    ),
}

_HEAD = """\
# Types

What becomes of a value on its way from a source to the warehouse. Drivers change values, so every value leaves as text
that the server itself makes; the expressions below are what it is asked for `c`. Each type has one of three fates:

- **exact**: it arrives in a type of ours that holds each of its values;
- **text**: it arrives as a string, in the server's own words;
- **refused**: the column is refused by name before anything is read, and the reason says what would help.

A value that its column's type cannot hold, such as `infinity` in a date, makes its row a *reject*: counted, listed without
its value, never changed. What a contract may declare in the place of a fate: a string where the table says text or exact,
a wider number, and what a note allows. [`services/processor/conform.py`](../services/processor/conform.py) has the spellings
that each type of ours accepts.

This page is written from the code: `python -m services.extractor.dialects.page > docs/types.md`.
"""


def render() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *(_section(dialect_of(name)) for name in TYPES)])


def _section(dialect: Dialect) -> str:
    title, remark = _TITLES[dialect.name]
    types = TYPES[dialect.name]
    rows = [_row(source_type, dialect.fate_of(source_type)) for source_type in types]
    table = "\n".join(["| type | fate | arrives as | note |", "|---|---|---|---|", *rows])
    return (
        f"## {title}\n\n{remark}\n\n{table}\n\nWhat the server is asked:\n\n{_expressions(dialect, types)}\n"
    )


def _row(source_type: str, fate: Fate) -> str:
    arrives = "" if fate.carriage is Carriage.REFUSED else f"`{fate.type}`"
    return f"| {_named(source_type)} | {fate.carriage} | {arrives} | {fate.note} |"


def _expressions(dialect: Dialect, types: Sequence[str]) -> str:
    asked: dict[str, list[str]] = {}
    for source_type in types:
        if dialect.fate_of(source_type).carriage is not Carriage.REFUSED:
            asked.setdefault(dialect.text_of("c", source_type), []).append(_named(source_type))
    return "\n".join(f"- {', '.join(named)}: `` {expression} ``" for expression, named in asked.items())


def _named(source_type: str) -> str:
    return f"`{source_type}`" if source_type else "none declared"


if __name__ == "__main__":
    print(render(), end="")
