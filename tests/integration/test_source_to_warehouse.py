"""Values from a PostgreSQL source to the view of an analyst, through every service: unchanged, or rejected and counted."""

import psycopg
import pytest
from psycopg import sql
from support.carrying import carry
from support.extraction import column, make_contract

from services.extractor.types_postgres import DESCRIBE_COLUMNS, SESSION_SETTINGS, fate_of

SETUP = """
    CREATE TYPE mood AS ENUM ('sad face', '', 'NULL', 'a"b', 'a,b');
    CREATE TYPE pair AS (a integer, b text);
    CREATE TYPE pairs AS (one pair, many pair[]);
    CREATE TYPE span AS RANGE (subtype = float8);
    CREATE DOMAIN positive AS integer CHECK (value > 0);
    CREATE DOMAIN answer AS boolean;
    CREATE DOMAIN answer_again AS answer;
"""

#: Of each type, values that arrive and values that become rejected rows.
VALUES: dict[str, tuple[list[str], list[str]]] = {
    "smallint": (["-32768", "32767"], []),
    "integer": (["-2147483648", "2147483647"], []),
    "bigint": (["-9223372036854775808", "9223372036854775807"], []),
    "numeric(38,0)": (["9" * 38, "-" + "9" * 38, "0"], ["NaN"]),
    "numeric(38,38)": (["0." + "9" * 38, "-0." + "0" * 37 + "1"], []),
    "numeric(39,0)": (["9" * 39], []),
    "numeric(1000,500)": (["9" * 500 + "." + "9" * 500, "NaN"], []),
    "numeric(38,10)": (["9999999999999999999999999999.9999999999", "-0.0000000001"], ["NaN"]),
    "numeric": (["NaN", "Infinity", "1e1000", "0." + "0" * 50 + "1", "1.10"], []),
    "numeric(5,-2)": (["12300"], []),
    "real": (["NaN", "-Infinity", "-0", "3.4028235e38", "1e-45", "16777217"], []),
    "double precision": (["NaN", "Infinity", "-0", "1.7976931348623157e308", "5e-324", "43.52593972953187"], []),
    "boolean": (["true", "false"], []),
    "date": (["0001-01-01", "9999-12-31"], ["0044-03-15 BC", "infinity", "10000-01-01"]),
    "timestamp": (["0001-01-01", "9999-12-31 23:59:59.999999", "1969-12-31 23:59:59.999999"], ["infinity", "294276-12-31"]),
    "timestamptz": (["2026-03-29 01:30+01", "9999-12-31 23:59:59.999999+00"], ["0001-01-01 00:00+14", "9999-12-31 23:00-12"]),
    "timestamptz(0)": (["2026-10-25 02:30+02", "2026-10-25 02:30+01", "2026-03-29 02:59:59.4+01"], ["-infinity"]),
    "timestamp(3)": (["2026-03-29 02:30:00.1234"], []),
    "time": (["24:00", "23:59:59.999999"], []),
    "timetz": (["24:00+15:59:59", "00:00-15:59"], []),
    "interval": (["1 year -3 days 04:05:06.000001", "-178000000 years", "1 mon -1 day", "2562047788:00:54.775807", "0"], []),
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
    "character varying(3)": (["", "ñ😀"], []),
    '"char"': (["a", ""], []),
    "name": (["x" * 63, ""], []),
    "money": (["-12.34", "92233720368547758.07", "-92233720368547758.08"], []),
    "bit(3)": (["101"], []),
    "macaddr": (["08:00:2b:01:02:03"], []),
    "macaddr8": (["08:00:2b:01:02:03:04:05"], []),
    "cidr": (["::/0", "10.0.0.0/8", "10.1.2.3/32"], []),
    "jsonpath": (['$."a"[*]'], []),
    "point": (["(0.1,-1e-300)", "(NaN,Infinity)"], []),
    "line": (["{1,-1,0.1}"], []),
    "lseg": (["[(0,0),(1,1e300)]"], []),
    "box": (["(1,1),(0,0)"], []),
    "path": (["[(0,0),(1,1)]", "((0,0),(1,1))"], []),
    "polygon": (["((0,0),(1,1),(2,0))"], []),
    "circle": (["<(0.5,0.25),1e-7>"], []),
    "tsquery": (["'a' & !'b':*"], []),
    "xid8": (["18446744073709551615"], []),
    "pg_lsn": (["FFFFFFFF/FFFFFFFF"], []),
    "tid": (["(4294967295,65535)"], []),
    "refcursor": (["a,b"], []),
    "int2vector": (["1 -2 3"], []),
    "pairs": (['("(1,""a,b"")","{""(2,\\\\""x\\\\"")"",NULL}")'], []),
    "span": (["[NaN,NaN]", "[0.1,Infinity)"], []),
    "int8multirange": (["{[-9223372036854775808,5),[7,9)}", "{}"], []),
    "numrange": (["(0.00000000000000000001,1e100]"], []),
    "daterange": (["[0044-03-15 BC,infinity)"], []),
    "tsrange": (["[4713-01-01 00:00:00 BC,294276-12-31 23:59:59.999999]"], []),
    "date[]": (["{infinity,5874897-12-31,NULL}"], []),
    "bytea[]": (['{"\\\\x00","\\\\x"}'], []),
    "double precision[]": (["{NaN,-Infinity,5e-324,-0}", "[-2:-1][3:4]={{0.1,1},{2,3}}"], []),
    "mood[]": (['{"sad face","","NULL"}'], []),
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

        contract = make_contract(columns, relation=("public", "things"))
        counts = carry(contract, secrets={"env:SHOP_DSN": database}, warehouse=database)

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

        contract = make_contract(columns, relation=("public", name))
        carry(contract, secrets={"env:SHOP_DSN": database}, warehouse=database)

        (row,) = connection.execute(sql.SQL("SELECT id, {}, a FROM shop.{}").format(own, table)).fetchall()
    assert row == (1, "x", b"\x00\xff")
