"""Values from a PostgreSQL source to the view of an analyst, through every service: unchanged, or rejected and counted."""

from dataclasses import replace

import psycopg
import pytest
from psycopg import sql
from support.extraction import BUCKET, column, make_assignment, make_contract, run_extract

from services.extractor.types_postgres import DESCRIBE_COLUMNS, SESSION_SETTINGS, fate_of
from services.processor.process import process
from services.publisher.memory import MemoryCatalog
from services.publisher.postgres import PostgresWarehouse
from services.publisher.publish import publish
from shared.domain.batches import Stage
from shared.domain.contracts import QuarantineLimits, TableContract
from shared.domain.files import FileFormat

SETUP = """
    CREATE TYPE mood AS ENUM ('sad face', '', 'NULL', 'a"b', 'a,b');
    CREATE TYPE pair AS (a integer, b text);
    CREATE DOMAIN positive AS integer CHECK (value > 0);
    CREATE DOMAIN answer AS boolean;
    CREATE DOMAIN answer_again AS answer;
"""

#: Of each type, values that arrive and values that become rejected rows.
VALUES: dict[str, tuple[list[str], list[str]]] = {
    "smallint": (["-32768", "32767"], []),
    "integer": (["-2147483648", "2147483647"], []),
    "bigint": (["-9223372036854775808", "9223372036854775807"], []),
    "numeric(38,10)": (["9999999999999999999999999999.9999999999", "-0.0000000001"], ["NaN"]),
    "numeric": (["NaN", "Infinity", "1e1000", "0." + "0" * 50 + "1", "1.10"], []),
    "numeric(5,-2)": (["12300"], []),
    "real": (["NaN", "-Infinity", "-0", "3.4028235e38", "1e-45", "16777217"], []),
    "double precision": (["NaN", "Infinity", "-0", "1.7976931348623157e308", "5e-324", "43.52593972953187"], []),
    "boolean": (["true", "false"], []),
    "date": (["0001-01-01", "9999-12-31"], ["0044-03-15 BC", "infinity", "10000-01-01"]),
    "timestamp": (["0001-01-01", "9999-12-31 23:59:59.999999", "1969-12-31 23:59:59.999999"], ["infinity", "294276-12-31"]),
    "timestamptz": (["2026-03-29 01:30+01", "9999-12-31 23:59:59.999999+00"], ["0001-01-01 00:00+14", "9999-12-31 23:00-12"]),
    "time": (["24:00", "23:59:59.999999"], []),
    "interval": (["1 year -3 days 04:05:06.000001", "-178000000 years"], []),
    "bytea": (["\\x" + bytes(range(256)).hex(), "\\x"], []),
    "json": (['{"a":1,"a":2, "b" : 1e400}', '"\\u0000\\ud83d\\ude00"', "12345678901234567890.10", "null"], []),
    "jsonb": (['{"b": 123456789012345678901234567890.10}', '"\\ud83d\\ude00"'], []),
    "uuid": (["00000000-0000-0000-0000-0000000000FF"], []),
    "inet": (["192.168.0.1", "10.0.0.0/8", "::1"], []),
    "text[]": (['{NULL,"NULL","a\\"b","a,b","","\\\\"}', "{}", "[0:1]={a,b}"], []),
    "timestamptz[]": (['{"2026-01-01 00:00:00+02"}'], []),
    "mood": (["sad face", "", "NULL", 'a"b', "a,b"], []),
    "pair": (['(1,"a,b")', "(,)", '(1,"")'], []),
    "positive": (["1"], []),
    "answer": (["true"], []),
    "answer_again": (["true"], []),
    "character(5)": (["a", " a", "", "ñ"], []),
    "money": (["-12.34"], []),
    "bit varying": (["", "10"], []),
    "int4range": (["[1,5)", "empty", "(,)"], []),
    "tstzrange": (["[2026-01-01 00:00+02,)"], []),
    "tsvector": (["'a':1A 'b'"], []),
    "oid": (["4294967295"], []),
    "text": (["", "NULL", "\\N", "\\.", "a\n\\.\nb", "\ufeffx", " x ", "\r", "\n", '""', ",", "\x01", "\u2028", "😀", "=1+1"], []),
}  # fmt: skip

#: Names that some layer could take for something else.
NAMES = [
    "*",
    "^.*$",
    "^a$",
    "a.b",
    "a,b",
    "100%",
    "$1",
    "{}",
    'qu"ote',
    "😀",
    "x" * 63,
    "select",
    "day",
    "batch",
    "row",
]


@pytest.fixture
def database(fresh_database):
    """Source and warehouse in one, whose settings are not those of our sessions."""
    name = psycopg.conninfo.conninfo_to_dict(fresh_database)["dbname"]
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute(SETUP)
        for setting, value in {
            "TimeZone": "Asia/Kathmandu",
            "DateStyle": "SQL, DMY",
            "extra_float_digits": "-5",
        }.items():
            connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")  # fmt: skip
    return fresh_database


def carry(contract: TableContract, dsn: str) -> dict[str, int]:
    """Lead the whole table of a contract from the source to the warehouse, and return what was counted."""
    contract = replace(contract, limits=QuarantineLimits(10**6, 1.0))
    extracted, store = run_extract(contract, secrets={"env:SHOP_DSN": dsn})
    assignment = make_assignment(contract)
    batch = replace(assignment.batch, attempts=dict.fromkeys(Stage, 1), bucket=BUCKET)
    processed = process(replace(assignment, batch=batch, files=tuple(extracted.files)), store=store)
    final = tuple(file for file in processed.files if file.format is FileFormat.PARQUET)
    published = publish(
        replace(assignment, batch=batch, files=final),
        warehouse=PostgresWarehouse(dsn, store=store),
        catalog=MemoryCatalog(),
    )
    counts = {**extracted.counts, **processed.counts, **published.counts}
    return {str(name): count for name, count in counts.items()}


def copied(connection: psycopg.Connection, relation: str) -> dict[str, str]:
    """The rows of a relation as the server writes them, by number."""
    with connection.cursor().copy(f"COPY (SELECT n, v FROM {relation}) TO STDOUT (FORMAT csv)") as rows:
        return dict(bytes(row).decode().rstrip("\n").split(",", 1) for row in rows)


@pytest.mark.parametrize("type_", VALUES)
def test_values_of_every_type_arrive_unchanged_or_are_rejected_and_counted(database, type_):
    arriving, rejected = VALUES[type_]
    with psycopg.connect(database, autocommit=True) as connection:
        for name, value in SESSION_SETTINGS.items():
            connection.execute(f"SET {name} = '{value}'")
        connection.execute(f"CREATE TABLE things (n integer, v {type_})")
        for number, value in enumerate([*arriving, None, *rejected]):
            connection.execute("INSERT INTO things VALUES (%s, %s)", [number, value])
        described = connection.execute(DESCRIBE_COLUMNS, {"schema": "public", "name": "things"}).fetchall()
        columns = [
            column(name, str(fate_of(source).type), source_type=source) for name, source, _ in described
        ]

        counts = carry(make_contract(columns, relation=("public", "things")), database)

        there = copied(connection, "public.things")
        found = copied(connection, "shop.things")
    assert found == {number: there[number] for number in map(str, range(len(arriving) + 1))}
    assert counts["rows_rejected"] == len(rejected)
    assert counts["rows_read"] == counts["rows_in_final"] + counts["rows_rejected"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_means_something_elsewhere_is_carried(database, name):
    with psycopg.connect(database, autocommit=True) as connection:
        table, own = sql.Identifier(name), sql.Identifier(name)
        connection.execute(sql.SQL("CREATE TABLE {} (id integer, {} text, a bytea)").format(table, own))
        connection.execute(sql.SQL("INSERT INTO {} VALUES (1, 'x', '\\x00ff')").format(table))
        columns = [column("id", "int32"), column(name), column("a", "binary")]

        carry(make_contract(columns, relation=("public", name)), database)

        (row,) = connection.execute(sql.SQL("SELECT id, {}, a FROM shop.{}").format(own, table)).fetchall()
    assert row == (1, "x", b"\x00\xff")
