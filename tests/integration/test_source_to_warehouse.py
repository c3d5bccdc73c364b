"""Values from a PostgreSQL source to the view of an analyst, through every service: unchanged, or rejected and counted."""

import psycopg
import pytest
from psycopg import sql
from support.carrying import carry
from support.extraction import column, make_contract
from support.type_values import POSTGRES_SETUP, POSTGRES_VALUES

from services.extractor.dialects.postgresql import DESCRIBE_COLUMNS, SESSION_SETTINGS, fate_of

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
        connection.execute(POSTGRES_SETUP)
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


@pytest.mark.parametrize("type_", POSTGRES_VALUES)
def test_values_of_every_type_arrive_unchanged_or_are_rejected_and_counted(database, type_):
    arriving, rejected = POSTGRES_VALUES[type_]
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
